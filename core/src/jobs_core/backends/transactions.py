"""Enqueue inside a transaction of the application: the jobs exist if and only if it commits. The feature `transactions`."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import NotSupported

if TYPE_CHECKING:
    from .base import Outgoing
    from .flows import Part


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

    def push_flow(self, parts: Sequence[tuple[Part, list[Outgoing]]], patience: float) -> Mapping[str, str]:
        """Store all parts of a flow, or none: then return the conflicts as `Backend.push_part` does. Raises NotSupported."""
        raise NotSupported("flows in transactions", "the backend", "send the flow after the commit")

    async def apush_flow(self, parts: Sequence[tuple[Part, list[Outgoing]]], patience: float) -> Mapping[str, str]:
        """`push_flow`, where `awaits` is true."""
        return self.push_flow(parts, patience)

    @abc.abstractmethod
    async def apush(self, messages: Sequence[Outgoing], patience: float) -> Mapping[str, str]:
        """`push`, where `awaits` is true."""
