"""The machines that share a backend, and commands to them: documents of kind `machine` and `command`.

The housekeeper of each supervisor publishes what its machine does every REPORT seconds; a machine that is silent for GONE
seconds is listed no more. A command is meant for one machine or all, and for one pool of it or all. It says what to do, from a
fixed list: never code. Each machine that runs when the command is given carries it out at most once, and reports how it ended.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

from .app import App
from .backends.base import Backend
from .backends.documents import all_of
from .errors import NotSupported
from .ids import new_id
from .sealed import seal

MACHINE: Final = "machine"
COMMAND: Final = "command"

REPORT: Final = 5.0
"""Seconds between two reports of a machine."""

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


class PoolReport(Struct, frozen=True):
    """One pool of a machine."""

    name: str
    topics: list[str]
    wanted: int
    serving: int
    max: int
    quiet: bool = False
    last_error: str = ""


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


def command(app: App, backend: Backend, order: Order, target: str = "*") -> str:
    """Give a command to a machine, or to all with "*"; return its id, under which each machine reports how it ended."""
    require(backend)
    name = new_id()
    order = msgspec.structs.replace(order, by=who())
    backend.put_document(COMMAND, name, seal(app.signer, COMMAND, name, order, target=target, ttl=LIFETIME), name, ttl=LIFETIME)
    return name


def who() -> str:
    """Return who changes something, for people; the system may have no name for its user."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
