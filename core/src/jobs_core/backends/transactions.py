"""Enqueue inside a transaction of the application: the jobs exist if and only if it commits. The feature `transactions`."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Outgoing


class Enlisted(abc.ABC):
    """A transaction of the application, into which jobs are pushed on its own connection, by its own thread or task.

    Errors of the database in the transaction are raised as the connection's own library raises them, since whoever owns the
    transaction looks for them to roll back and try again. Raises TransactionError if the jobs do not belong there: nothing was
    stored then, and the transaction goes on.
    """

    awaits: bool = False
    """True if only `apush` can be called: the connection is one for an event loop."""

    @abc.abstractmethod
    def push(self, messages: Sequence[Outgoing], patience: float) -> Mapping[str, str]:
        """Store messages; return what `Backend.push` returns.

        If another transaction that has not ended holds a unique key, this waits for it, for `patience` seconds at most, and
        then raises BackendUnavailable.
        """

    @abc.abstractmethod
    async def apush(self, messages: Sequence[Outgoing], patience: float) -> Mapping[str, str]:
        """`push`, where `awaits` is true."""
