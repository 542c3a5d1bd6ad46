"""When messages are pushed: at once, into a transaction, or once a transaction commits; and what becomes of duplicates."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from ..backends.base import Outgoing
from ..errors import BackendError, DuplicateJob, JobDefinitionError
from ..handle import JobHandle
from ..plugins import Implementation, around, obeyed
from ..stamp import Stamp
from ..transactional import Transactions
from .resources import Resources

T = TypeVar("T")


class Delivery:
    """The ways from one application to its backend, of which plugins may have their own. Any thread may use it."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._transactions: Transactions | None = None
        self.forget_hooks()

    def forget_hooks(self) -> None:
        """Ask the plugins again before the next push."""
        self.bare = False  # True once the plugins were asked, and none wraps enqueues or holds them back until a commit
        self.context: list[Implementation] | None = None  # what wraps enqueues; None until the plugins were asked
        self._open_transactions: list[Implementation] = []
        self._hold: list[Implementation] | None = None

    def ask_hooks(self) -> None:
        """Ask the plugins once which of them wrap enqueues or hold them back; without any, an enqueue is the bare push."""
        if self._hold is None:
            plugins = self._resources.plugins
            self.context = plugins.implementations("jobs_enqueue_context")
            self._open_transactions = plugins.implementations("jobs_open_transactions")
            self._hold = plugins.implementations("jobs_hold_enqueue")
            self.bare = not (self.context or self._hold or self._open_transactions)

    def around(self, *, what: str, job: str | None, topic: str | None) -> AbstractContextManager[None]:
        """Return what the plugins want to be open around an enqueue of a job, a batch or a flow."""
        self.ask_hooks()
        return around(self.context or (), what=what, job=job, topic=topic)

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run a function that pushes on a thread, in the caller's context if a plugin may look for it, such as its span."""
        if not self.bare:
            function = functools.partial(contextvars.copy_context().run, function)
        return await self._resources.in_thread(function)

    def deliver(self, stamps: Sequence[Stamp], outgoing: list[Outgoing]) -> Mapping[str, str]:
        """Push now, or let a plugin push when a transaction commits; return the conflicts known so far."""
        if self._hold is None:
            self.ask_hooks()
        wish, transaction = stamps[0].on_commit, stamps[0].transaction
        if len(stamps) > 1:
            wanted = [(stamp.on_commit, id(stamp.transaction)) for stamp in stamps]
            if wanted.count(wanted[0]) < len(wanted):
                if self._hold or any(stamp.transaction is not transaction for stamp in stamps):
                    return self._deliver_apart(stamps, outgoing, wanted)
                wish = any(stamp.on_commit for stamp in stamps)
        if transaction is None and wish is not False and self._open_transactions and self.transactions().automatic:
            transaction = self.transactions().around_caller()
        if transaction is not None and self._resources.needs_transactions:
            return self.transactions().push(transaction, outgoing, float(self._resources.config.enqueue_timeout))
        if not wish and not self._hold:
            return self._resources.push(outgoing)
        told: dict[str, str] = {}
        name = next(stamp.envelope.job for stamp in stamps if stamp.on_commit) if wish else None
        if self.holds(wish, name, functools.partial(self._push_into, told, outgoing)):
            return told
        return self._resources.push(outgoing)

    def _deliver_apart(self, stamps: Sequence[Stamp], outgoing: list[Outgoing], wanted: Sequence[object]) -> Mapping[str, str]:
        """Deliver calls with different values of `on_commit` or `transaction` separately; each group keeps its order."""
        conflicts: dict[str, str] = {}
        for wish in dict.fromkeys(wanted):
            places = [n for n, other in enumerate(wanted) if other == wish]
            conflicts.update(self.deliver([stamps[n] for n in places], [outgoing[n] for n in places]))
        return conflicts

    def holds(self, wish: bool | None, name: str | None, send: Callable[[], None]) -> bool:
        """Return whether a plugin calls `send`, now or when a transaction commits; `name` is a job that wishes it."""
        if self._hold is None:
            self.ask_hooks()
        if wish and not self._hold and self._resources.needs_transactions:
            raise JobDefinitionError(
                f"{name}: on_commit: no plugin here handles transactions: install the plugin of your framework (pip install "
                "jobs-django)"
            )
        for implementation in self._hold or ():
            if obeyed(implementation, bool, {"config": self._resources.config, "on_commit": wish, "send": send}):
                return True
        if wish and self._hold:
            raise JobDefinitionError(
                "on_commit: no framework is set up in this process: only Django's plugin handles transactions"
            )
        return False

    def around_caller(self) -> Any:
        """Return the transaction that is open around the caller and on the database of the jobs; None without one."""
        if not self._open_transactions or not self.transactions().automatic:
            return None
        return self.transactions().around_caller()

    @property
    def enlists(self) -> bool:
        """True once something was, or might have been, pushed into a transaction."""
        return self._transactions is not None

    def transactions(self) -> Transactions:
        """Return what pushes into transactions of the application."""
        known = self._transactions
        if known is None or known.config is not self._resources.config:
            self.ask_hooks()
            store = self._resources.new_outbox() if self._resources.config.outbox.url else self._resources.new_backend()
            known = self._transactions = Transactions(self._resources.config, store, self._open_transactions)
        return known

    def _push_into(self, conflicts: dict[str, str], group: list[Outgoing]) -> None:
        conflicts.update(self._resources.push(group))

    def note_duplicates(
        self, handles: Sequence[JobHandle[Any]], sent: Sequence[Outgoing], conflicts: Mapping[str, str]
    ) -> None:
        """Point the handles of duplicates at the existing jobs; raise DuplicateJob for the first with `conflict="raise"`."""
        refused: tuple[str, str, str] | None = None
        for handle, message in zip(handles, sent, strict=True):
            holder = conflicts.get(message.id)
            if holder is None:
                continue
            handle.id, handle.created = holder, False
            if holder != message.id and message.unique and message.unique.conflict == "raise" and refused is None:
                refused = (handle.job.name, message.unique.key, holder)
        if refused:
            name, key, holder = refused
            said = f"{name} with the unique key {key!r} is already enqueued, as {holder}{self.about_holder(holder)}"
            raise DuplicateJob(said, existing_id=holder)

    def about_holder(self, job_id: str) -> str:
        """Say how to free the unique key of a job if it belongs to a flow that was sent in part; else return nothing."""
        with contextlib.suppress(BackendError):
            record = self._resources.operate_briefly(lambda backend: backend.get(job_id))
            if record is not None and record.member is not None:
                flow_id = record.member.flow
                found = self._resources.operate_briefly(lambda backend: backend.flow(flow_id))
                if found is not None and found.state == "open":
                    return (
                        f". It is in flow {flow_id}, which has not been sent completely: if its sender has died, "
                        f"`jobsctl flow cancel {flow_id}` frees the key"
                    )
        return ""


def note_repeated(handles: Sequence[JobHandle[Any]]) -> None:
    """If an id occurs several times in one call, mark only its first handle as `created`."""
    seen: set[str] = set()
    for handle in handles:
        if handle.id in seen:
            handle.created = False
        seen.add(handle.id)
