"""An outbox: jobs enqueued in a database of the application, within its transactions, until they are carried to the backend.

The transactions of the application insert the jobs, so a job is in the outbox if and only if its transaction has committed.
One carrier at a time (`lead`) takes the oldest ones as a load, pushes them under the load's request id, and deletes them. If it
is killed in between, the next carrier is given the same load under the same request id first, so that a queue with
`dedup` adds nothing twice.

A flow is one item of a load, of whatever size: the load has the next part of it, and `advance` the one after that, so that no
step is larger than a part. The backend lets no member run before it has the last part.

Methods are called by one thread at a time, except `interrupt`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

from .base import Outgoing
from .flows import Part

if TYPE_CHECKING:
    from .transactions import Enlisted

MOST_LOADED = 1000
"""Most jobs of one load."""

LOAD_BYTES = 16 * 10**6
"""A load ends with the job that makes it this large."""

MOST_COUNTED = 10_000
"""Jobs in an outbox are counted up to this number."""

FIRST_RETRY, LONGEST_RETRY = 5.0, 600.0
"""Seconds after which a refused job is tried again: doubled every time, up to the second."""


class FlowPart(Struct, frozen=True):
    """A flow in a load: the next of its parts that is to be pushed."""

    part: Part
    messages: list[Outgoing]


class Load(Struct, frozen=True):
    """Jobs and flows to be pushed in the order of their insertion; their delays are what is left of them."""

    request: str
    items: list[Outgoing | FlowPart]
    unreadable: dict[str, str] = {}  # by id, what this release cannot read, with the reason


class OutboxState(Struct, frozen=True):
    """The jobs in an outbox, members of flows included."""

    waiting: int  # that are to be carried, the refused ones included; at most MOST_COUNTED
    oldest_age: float | None  # seconds since the oldest of them was inserted; None if there are none
    refused: int  # that the backend has refused so far; at most MOST_COUNTED


class OutboxItem(Struct, frozen=True):
    """A job or flow in an outbox, for people."""

    id: str
    topic: str  # of a flow, its name
    age: float  # seconds since it was inserted
    tries: int = 0  # that the backend has refused
    next_try: float | None = None  # seconds from now, if the backend has refused it
    reason: str = ""  # why it has
    members: int | None = None  # of a flow, how many of them are not carried yet


class Outbox(abc.ABC):
    """A connection to an outbox, opened by `open`; `enlist`, `shares`, `find` and `withdraw` open their own."""

    name: str = ""
    """The URL scheme, for messages."""

    @abc.abstractmethod
    def enlist(self, transaction: object) -> Enlisted:
        """Return what inserts jobs in a transaction of the application. Raises TransactionError."""

    @abc.abstractmethod
    def shares(self, transaction: object) -> bool:
        """Return whether a transaction of the application is on the database of this outbox."""

    @abc.abstractmethod
    def find(self, item_id: str) -> OutboxItem | None:
        """Return the job or flow with this id, or the flow of which it is a member; None if the outbox does not have it."""

    @abc.abstractmethod
    def withdraw(self, item_id: str) -> bool:
        """Delete a job, or a flow of which no part was carried, unless it is being carried; return whether it was there."""

    @abc.abstractmethod
    def setup(self) -> None:
        """Create the tables that are missing. May be repeated."""

    @abc.abstractmethod
    def open(self) -> None:
        """Connect, creating the tables that are missing. Raises BackendUnavailable, BackendError."""

    @abc.abstractmethod
    def close(self) -> None:
        """Disconnect, and lead no more. Raises nothing."""

    @abc.abstractmethod
    def lead(self) -> bool:
        """Return whether this connection is the one that carries, which it stays until it ends."""

    @abc.abstractmethod
    def take(self, most: int) -> Load | None:
        """Return the load that was taken and not finished, else a new one of up to `most` items; None if none is due."""

    @abc.abstractmethod
    def advance(self, load: Load, part: Part) -> FlowPart:
        """Delete a part that was pushed, which is not the last of its flow; return the next.

        Raises BackendUnavailable if another carrier has the load by now, BackendError if the next part is missing.
        """

    @abc.abstractmethod
    def finish(self, load: Load, refused: Mapping[str, str]) -> None:
        """Delete the items of a load, except the refused ones, by id with the reason, which are tried again later."""

    @abc.abstractmethod
    def wait(self, timeout: float) -> None:
        """Sleep until jobs may be due, for `timeout` seconds at most."""

    @abc.abstractmethod
    def interrupt(self) -> None:
        """End the current `wait`, or the next. Any thread may call it."""

    def advice(self) -> list[str]:
        """Return the risks in how the database is reached, each with its fix, for `jobsctl check`."""
        return []

    @abc.abstractmethod
    def state(self) -> OutboxState:
        """Count the jobs."""

    @abc.abstractmethod
    def refused(self, most: int) -> list[OutboxItem]:
        """Return the jobs and flows that the backend has refused, the oldest first."""

    @abc.abstractmethod
    def retry(self, job_ids: Sequence[str]) -> int:
        """Let refused jobs and flows be tried at once; return how many are known."""

    @abc.abstractmethod
    def drop(self, job_ids: Sequence[str]) -> int:
        """Delete jobs, or flows as far as they are here, that are not being carried; return how many."""


OutboxFactory: TypeAlias = Callable[[str, str], Outbox]
"""A function of the URL and the application's prefix that returns an outbox, without connecting."""
