"""Pushes into transactions of the application, which the backend or a framework's plugin knows how to join."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .backends.base import Backend, Outgoing
from .backends.flows import FlowStatus
from .backends.outbox import Outbox, OutboxItem
from .backends.transactions import Enlisted
from .errors import NotSupported, elsewhere
from .plugins import Implementation, obeyed

if TYPE_CHECKING:
    from .config import Config

FIX = f"enqueue after the commit, set [outbox] url, or {elsewhere('transactions')}"


class Transactions:
    """The transactions of one application under one configuration. Any thread may use it, each with transactions of its own."""

    def __init__(self, config: Config, store: Backend | Outbox, hooks: Sequence[Implementation]) -> None:
        self.config = config
        self._store = store
        self._hooks = hooks
        self._has = isinstance(store, Outbox) or "transactions" in store.features
        self.automatic = self._has and bool(hooks)
        """True if an enqueue may belong to a transaction that nobody names."""

    def enlist(self, transaction: object) -> Enlisted:
        """Return what pushes into a transaction. Raises NotSupported, TransactionError."""
        if not self._has:
            raise NotSupported("transactions", f"{self._store.name}://", FIX)
        return self._store.enlist(transaction)

    def around_caller(self) -> Any:
        """Return the transaction on the database of the jobs that a framework has open around the caller."""
        for hook in self._hooks:
            for transaction in obeyed(hook, Sequence, {"config": self.config}) or ():
                if self._store.shares(transaction):
                    return transaction
        return None

    def holds(self, job_id: str) -> bool:
        """Return whether a job is in the outbox."""
        found = self.in_outbox(job_id)
        return found is not None and (found.members is None or found.id != job_id)

    def flow(self, flow_id: str) -> FlowStatus | None:
        """Return the status of a flow in the outbox; None if it is not there."""
        found = self.in_outbox(flow_id)
        if found is None or found.members is None or found.id != flow_id:
            return None
        now, members = time.time(), found.members
        return FlowStatus(flow_id, "scheduled", found.topic, members, members, created_at=now - found.age, broker_now=now)

    def in_outbox(self, item_id: str) -> OutboxItem | None:
        """Return what is known of a job or flow, or of the flow of a member, in the outbox; None if it is not there."""
        return self._store.find(item_id) if isinstance(self._store, Outbox) else None

    def withdraw(self, item_id: str) -> bool:
        """Delete a job or flow of which nothing was carried yet from the outbox; return whether it was there."""
        return isinstance(self._store, Outbox) and self._store.withdraw(item_id)

    def push(self, transaction: object, outgoing: Sequence[Outgoing], patience: float) -> Mapping[str, str]:
        """Store messages in a transaction; return what `Backend.push` returns."""
        return self.enlist(transaction).push(outgoing, patience)
