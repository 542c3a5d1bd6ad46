"""Report what this machine does to the backend, and receive commands from there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from ... import events
from ...app import App
from ...backends.base import Backend
from ...backends.documents import LARGEST, Document, all_of
from ...errors import BackendError, BackendUnavailable, SignatureError
from ...ids import new_token
from ...machines import (
    COMMAND,
    GONE,
    LIFETIME,
    MACHINE,
    MOST_RUNNING,
    MOST_WORKERS,
    REFUSED,
    MachineReport,
    Order,
    PoolReport,
    RunReport,
    is_meant,
    machine_name,
)
from ...scoreboard import state
from ...scoreboard.state import Board, SupervisorState, read_board
from ...scoreboard.writer import start_ticks
from ...sealed import Sealed, unseal
from ...units import format_duration
from ..system.messages import CommandDone, Commanded
from .stacks import TakenStacks

FILE = "commands.json"
"""The file in the run directory in which the commands that were received are remembered."""

REMEMBERED = 3600.0
"""Seconds for which a command is remembered beyond its lifetime, whatever the clocks of machines."""

CLOCKS = 60.0
"""Seconds by which the clocks of two machines may differ, where commands are signed: a copy of a command that nobody received
can be given again for so long after it has expired, and no longer."""

REPORTED = 300.0
"""Seconds for which reports say how a command ended."""

MOST_REPORTED = 100
"""Most commands of which a report says how they ended."""

_LONGEST = 200  # characters of an error in a report


class Received(Struct):
    """What this machine knows of commands; the content of FILE."""

    supervisor: str = ""  # the supervisor that knows it
    seen: int = 0  # version of the last command that was looked at
    done: dict[str, tuple[float, str]] = {}  # id → (its time, why it was not carried out)


class Machine:
    """This machine, as others see it. One thread uses it: the housekeeper's.

    `tell` passes a command to the supervisor, which answers with `CommandDone`.
    """

    def __init__(self, app: App, run_dir: Path, supervisor: int, tell: Callable[[Commanded], object]) -> None:
        self._app = app
        self._run_dir = run_dir
        self._tell = tell
        self.name = machine_name(run_dir)
        self._path = run_dir / FILE
        self._supervisor = f"{supervisor}-{start_ticks(supervisor)}"
        self._received: Received | None = None
        self._version = -1
        self._unreported = ""  # why the last report was refused
        self._untold = False  # whether a command has ended since the last report
        self._refused: dict[str, tuple[float, str]] = {}  # id of a refused command → (its time, why)
        self._stacks = TakenStacks(self.name, run_dir)

    # -- reports ---------------------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        """Return whether a report is wanted before its time."""
        return self._untold or self._stacks.is_due

    def report(self, backend: Backend) -> None:
        """Publish the state of this machine; if the backend refuses that, say so once. Raises BackendUnavailable."""
        board = read_board(self._run_dir, most_entries=MOST_RUNNING)
        if board.supervisor is None:
            return
        report = self._describe(board, board.supervisor)
        data = msgspec.json.encode(report)
        if len(data) > LARGEST:  # there are hundreds of pools
            data = msgspec.json.encode(_shortened(report))
        self._untold = False
        try:
            backend.put_document(MACHINE, self.name, data, new_token(), ttl=GONE)
            self._stacks.send(backend)
        except BackendUnavailable:
            raise
        except BackendError as error:  # a full backend, or an older broker: the housekeeper has other work
            if str(error) != self._unreported:
                events.emit(events.MachineNotReported(str(error)))
            self._unreported = str(error)
        else:
            self._unreported = ""

    def leave(self, backend: Backend) -> None:
        """Remove the report if the supervisor stops; after a reload, another housekeeper goes on."""
        it = state.read(self._run_dir / state.STATE, SupervisorState)
        if it is not None and it.state != "stopping":
            return
        with contextlib.suppress(BackendError):
            backend.delete_document(MACHINE, self.name, new_token())

    def _describe(self, board: Board, it: SupervisorState) -> MachineReport:
        figures, now = board.figures(), time.monotonic()
        running = sorted(
            ((entry, view.header.pid) for view in board.workers for entry in view.running), key=lambda one: one[0].started
        )
        return MachineReport(
            name=self.name,
            host=it.host,
            run_dir=str(self._run_dir),
            pid=it.pid,
            version=it.version,
            state=it.state,
            started_at=it.started_at,
            generation=it.generation,
            pools=list(_pools(it)),
            running=sum(view.running_count for view in board.workers),
            longest=[
                RunReport(entry.id, entry.job[:_LONGEST], entry.topic, round(entry.seconds(now), 1), pid)
                for entry, pid in running[:MOST_RUNNING]
            ],
            memory=sum(child.memory for child in it.workers),
            done=sum(row.outcomes.get("done", 0) for row in figures),
            failed=sum(row.outcomes.get("retry", 0) + row.outcomes.get("dead", 0) for row in figures),
            crashed=it.crashed,
            last_refusal=it.last_refusal[:_LONGEST],
            commands=self._ended_lately(),
        )

    def _ended_lately(self) -> dict[str, str]:
        if self._received is None:
            return {}
        since = time.time() - REPORTED
        known = self._refused | self._received.done  # a copy of a command that was carried out changes nothing
        lately = {name: error for name, (at, error) in known.items() if at > since and error != _PENDING}
        return dict(list(lately.items())[-MOST_REPORTED:])

    # -- commands --------------------------------------------------------------------------------

    def look(self, backend: Backend, version: int) -> None:
        """Carry out the commands that were given since the last look, if `version`, of their kind, has changed."""
        if version == self._version:
            return
        received = self._known(version)
        again = received.seen > version  # the backend has come back empty, or older, and counts from there
        if again:
            received.seen = 0
        for document in sorted(all_of(backend, COMMAND), key=lambda document: document.version):
            if document.version > received.seen and not (again and document.name in received.done):
                received.seen = document.version
                self._receive(received, document)
        self._version = version

    def done(self, ended: CommandDone) -> None:
        """Note how a command ended."""
        received = self._received or state.read(self._path, Received)
        if received is None:  # the file has gone, and with it what the command was
            return
        self._received = received
        self._stacks.ended(ended.id, ended.error)
        at, _ = received.done.get(ended.id, (time.time(), ""))
        received.done[ended.id] = at, ended.error[:_LONGEST]
        self._save(received)
        self._untold = True
        events.emit(events.CommandEnded(ended.id, ended.error))

    def _receive(self, received: Received, document: Document) -> None:
        """Pass a command to the supervisor, having noted it first: so it is carried out once, or not at all."""
        try:
            target, order = self._read(received, document)
        except SignatureError as error:
            events.emit(events.CommandRefused(document.name, str(error)))
            self._save(received)
            self._refuse(document.name, str(error))
            return
        if not is_meant(target, self.name):
            return
        now = time.time()
        for name in [name for name, (at, _) in received.done.items() if at < now - LIFETIME - REMEMBERED]:
            del received.done[name]
        received.done[document.name] = now, _PENDING
        if not self._save(received):
            received.done[document.name] = now, f"{self._path} cannot be written"
            self._untold = True
            return
        events.emit(events.CommandReceived(document.name, order.do, order.pool, order.by))
        if order.do == "stacks":
            self._stacks.begin(document.name, order.pool)
        self._tell(Commanded(document.name, order.do, order.pool, order.workers))

    def _refuse(self, name: str, why: str) -> None:
        """Let the next report tell whoever gave a command that it is refused here.

        For whom it was meant is unknown, if it cannot be trusted: each machine reports it, and its giver reads some reports.
        """
        self._refused[name] = time.time(), f"{REFUSED}{why}"[:_LONGEST]
        while len(self._refused) > MOST_REPORTED:  # anyone who can write to the backend can have many refused
            del self._refused[next(iter(self._refused))]
        self._untold = True

    def _read(self, received: Received, document: Document) -> tuple[str, Order]:
        sealed = unseal(self._app.signer, document)
        if document.name in received.done:
            raise SignatureError("it was received before")
        if self._app.signer:  # without keys, the backend alone says when a command expires, by its own clock
            _check_time(sealed)
        try:
            order = msgspec.json.decode(sealed.body, type=Order)
        except msgspec.MsgspecError as error:
            raise SignatureError(f"it is not a command that this release knows: {error}") from None
        if order.workers is not None and not 0 <= order.workers <= MOST_WORKERS:
            raise SignatureError(f"a pool has 0 to {MOST_WORKERS:,} workers")
        return sealed.target, order

    def _known(self, version: int) -> Received:
        """Return what is known; commands from before the start of the supervisor, up to `version`, are not carried out."""
        if self._received is None:
            kept = state.read(self._path, Received) or Received()
            if kept.supervisor != self._supervisor:
                kept.supervisor, kept.seen = self._supervisor, version
                self._save(kept)
            self._received = kept
        return self._received

    def _save(self, received: Received) -> bool:
        try:
            state.write(self._path, received)
        except OSError as error:
            events.emit(events.RunDirTrouble(FILE, str(error)))
            return False
        return True


_PENDING = "?"
"""How a command ended that has not ended yet."""


def _check_time(sealed: Sealed) -> None:
    """Raise SignatureError unless a signed command was made lately, by the clock of this machine."""
    now = time.time()
    if sealed.expires_at is None or sealed.expires_at / 1000 < now - CLOCKS:
        since = format_duration(max(round(now - sealed.issued_at / 1000), 0))
        raise SignatureError(
            f"it was made {since} ago by the clock here, and has expired: if it is new, synchronise the clocks of both machines"
        )
    if sealed.issued_at / 1000 > now + CLOCKS:
        ahead = format_duration(round(sealed.issued_at / 1000 - now))
        raise SignatureError(f"it was made {ahead} in the future by the clock here: synchronise the clocks of the two machines")


def _shortened(report: MachineReport) -> MachineReport:
    """Return a report without the details that need most room."""
    pools = [msgspec.structs.replace(pool, topics=[], last_error="") for pool in report.pools[:200]]
    return msgspec.structs.replace(report, pools=pools, longest=[], commands={})


def _pools(it: SupervisorState) -> Iterator[PoolReport]:
    for pool in it.pools:
        workers = [child for child in it.workers if child.pool == pool.name]
        serving = sum(child.state == "serving" for child in workers)
        error = pool.last_error[:_LONGEST] if pool.failures else ""
        yield PoolReport(pool.name, pool.topics[:20], pool.wanted, serving, pool.max, pool.quiet, error, pool.scaled)


__all__ = ["Machine", "Received"]
