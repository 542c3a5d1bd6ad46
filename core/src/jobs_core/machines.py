"""The machines that share a backend, commands to them, and sizes of their pools: documents of kind `machine` and `command`.

The sizes that operators set for pools are documents of kind `pool-size`. They stay until they are reset. The stacks of workers
that a command has asked for are documents of kind `stacks`, the last ones of each machine.

The housekeeper of each supervisor publishes what its machine does every REPORT seconds; a machine that is silent for GONE
seconds is listed no more. A command is meant for one machine or all, and for one pool of it or all. It says what to do, from a
fixed list: never code. Each machine that runs when the command is given carries it out at most once, and reports how it ended.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

from .app import App
from .backends.base import Backend
from .backends.documents import all_of
from .errors import NotSupported, SignatureError
from .ids import new_id
from .sealed import seal, unseal
from .units import count

MACHINE: Final = "machine"
COMMAND: Final = "command"
SIZE: Final = "pool-size"
STACKS: Final = "stacks"

EVERYWHERE: Final = "*"
"""The target that means all machines."""

MOST_WORKERS: Final = 10_000
"""Most workers that a pool can be set to."""

REPORT: Final = 5.0
"""Seconds between two reports of a machine."""

REFUSED: Final = "refused: "
"""What the report of a refused command begins with."""

GONE: Final = 30.0
"""Seconds without a report after which a machine is gone."""

LIFETIME: Final = 60.0
"""Seconds for which a command can be carried out."""

MOST_RUNNING: Final = 20
"""Most running jobs that a report names, those that have run longest."""

FEATURE: Final = (
    "documents",
    'machines cannot see one another there: set [results] url, or see "Backends" in the documentation',
)

Do: TypeAlias = Literal["quiet", "resume", "scale", "reload", "stacks"]


class Order(Struct, frozen=True, omit_defaults=True):
    """The body of a command."""

    do: Do
    pool: str = ""  # empty: all pools
    workers: int | None = None  # scale: None returns to the configured size
    by: str = ""  # who gave it, for people


class PoolSize(Struct, frozen=True):
    """The size that an operator has set for a pool, on one machine or on all."""

    pool: str
    target: str  # a machine, its host, or EVERYWHERE
    workers: int
    by: str = ""


class _Size(Struct, frozen=True):
    """The body of its document."""

    workers: int
    by: str = ""


class PoolReport(Struct, frozen=True):
    """One pool of a machine."""

    name: str
    topics: list[str]
    wanted: int
    serving: int
    max: int
    quiet: bool = False
    last_error: str = ""
    scaled: bool = False  # an operator has set its size


class RunReport(Struct, frozen=True):
    """One running job."""

    id: str
    job: str
    topic: str
    seconds: float
    pid: int


class MachineReport(Struct, frozen=True):
    """What a machine says about itself."""

    name: str
    host: str
    run_dir: str
    pid: int
    version: str
    state: str  # starting | serving | quiet | reloading | stopping
    started_at: float  # by the machine's clock
    generation: int
    pools: list[PoolReport]
    running: int
    longest: list[RunReport]
    memory: int
    done: int
    failed: int
    crashed: int
    last_refusal: str = ""  # why the last reload was refused
    commands: dict[str, str] = {}  # id of a command of the last minutes → why it was not carried out, or ""
    age: float = 0.0  # seconds since the report, by the broker's clock; set by readers


class WorkerStacks(Struct, frozen=True):
    """The stacks of one worker, as it has written them."""

    pid: int
    pool: str
    text: str
    complete: bool  # its main thread has answered, too
    running: list[str] = []  # some of its jobs: name and id


class StacksReport(Struct, frozen=True):
    """The stacks of the workers of a machine, after a command to take them."""

    command: str
    at: float  # by the machine's clock
    workers: list[WorkerStacks]
    left_out: int = 0  # workers for which there was no room
    age: float = 0.0  # seconds since the report, by the broker's clock; set by readers


STACKS_KEPT: Final = 600.0
"""Seconds for which the stacks of a machine are kept."""


def machine_name(run_dir: Path) -> str:
    """Return the name of the supervisor in a run directory: the host, and a few letters for the directory."""
    digest = hashlib.sha256(os.fsencode(run_dir.resolve())).hexdigest()[:6]
    return f"{socket.gethostname()[:60]}.{digest}"


def is_meant(target: str, name: str) -> bool:
    """Return whether a command with this target is meant for the machine of this name: its name, its host, or "*"."""
    return target in ("*", name, name.rpartition(".")[0])


def require(backend: Backend) -> None:
    """Raise NotSupported if a backend has no documents."""
    if "documents" not in backend.features:
        raise NotSupported(FEATURE[0], f"{backend.name}://", FEATURE[1])


def reports(backend: Backend) -> list[MachineReport]:
    """Return the reports of all machines by name; those of a later release that cannot be read are left out."""
    require(backend)
    found = []
    for document in all_of(backend, MACHINE):
        try:
            report = msgspec.json.decode(document.data, type=MachineReport)
        except (msgspec.MsgspecError, UnicodeError):
            continue
        age = max(0.0, GONE - document.expires_in) if document.expires_in is not None else 0.0
        found.append(msgspec.structs.replace(report, name=document.name, age=age))
    return found


def stacks_of(backend: Backend, machine: str) -> StacksReport | None:
    """Return the stacks that a machine has reported last; None if it has not, or cannot be read."""
    require(backend)
    document = backend.document(STACKS, machine)
    try:
        report = None if document is None else msgspec.json.decode(document.data, type=StacksReport)
    except (msgspec.MsgspecError, UnicodeError):
        return None
    if document is None or report is None:
        return None
    age = max(0.0, STACKS_KEPT - document.expires_in) if document.expires_in is not None else 0.0
    return msgspec.structs.replace(report, age=age)


def command(app: App, backend: Backend, order: Order, target: str = "*") -> str:
    """Give a command to a machine, or to all with "*"; return its id, under which each machine reports how it ended."""
    require(backend)
    name = new_id()
    order = msgspec.structs.replace(order, by=who())
    backend.put_document(COMMAND, name, seal(app.signer, COMMAND, name, order, target=target, ttl=LIFETIME), name, ttl=LIFETIME)
    return name


def sizes(app: App, backend: Backend, refused: Callable[[str, str], object] = lambda name, error: None) -> list[PoolSize]:
    """Return all sizes that are set for pools; `refused` is told the name of each document that cannot be trusted, and why."""
    found = []
    for document in all_of(backend, SIZE):
        try:
            sealed = unseal(app.signer, document)
            target, _, pool = document.name.partition("/")
            body = msgspec.json.decode(sealed.body, type=_Size)
        except (SignatureError, msgspec.MsgspecError) as error:
            refused(document.name, str(error))
            continue
        if sealed.target != target or not 0 <= body.workers <= MOST_WORKERS:
            refused(document.name, f"it is meant for {sealed.target}, and sets {count(body.workers, 'worker')}")
            continue
        found.append(PoolSize(pool, target, body.workers, body.by))
    return found


def size_of(found: Sequence[PoolSize], pool: str, machine: str) -> PoolSize | None:
    """Return the size that holds for a pool of a machine: that of the machine, of its host, or of all; None if none is set."""
    mine = {size.target: size for size in found if size.pool == pool}
    return mine.get(machine) or mine.get(machine.rpartition(".")[0]) or mine.get(EVERYWHERE)


def set_size(app: App, backend: Backend, pool: str, workers: int | None, targets: Collection[str]) -> None:
    """Set the size of a pool until it is set again; None resets it. EVERYWHERE also ends the sizes of single machines."""
    require(backend)
    refused: list[str] = []
    ended = [size.target for size in sizes(app, backend, lambda name, error: refused.append(name)) if size.pool == pool]
    ended += [target for target, _, of in (name.partition("/") for name in refused) if of == pool]
    ended = ended if EVERYWHERE in targets else []
    for target in targets:
        name = f"{target}/{pool}"
        if workers is None:
            ended.append(target)
            continue
        before = backend.document(SIZE, name)
        data = seal(app.signer, SIZE, name, _Size(workers, who()), replaces=before.version if before else 0, target=target)
        backend.put_document(SIZE, name, data, new_id())
    for target in ended:
        if workers is None or target not in targets:
            backend.delete_document(SIZE, f"{target}/{pool}", new_id())


_acting: ContextVar[str] = ContextVar("acting", default="")


@contextlib.contextmanager
def acting_as(name: str) -> Iterator[None]:
    """Let `who` return the name of a user of the dashboard inside the block, in this thread or task."""
    token = _acting.set(name)
    try:
        yield
    finally:
        _acting.reset(token)


def who() -> str:
    """Return who changes something, for people; the system may have no name for its user."""
    if name := _acting.get():
        return name
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
