"""`jobsctl stack`: show the current stacks of a worker."""

from __future__ import annotations

import os
import re
import signal
import sysconfig
import time
from pathlib import Path

import click
from msgspec import Struct

from ..escapes import one_line
from ..operating import formatting
from ..operating.formatting import count
from ..scoreboard.reader import WorkerFile, alive
from ..scoreboard.state import STACKS, worker_files
from ..supervisor.control import number_here
from ..supervisor.pidfile import running
from ..worker.stacks import END, SIGNAL, TASKS, THREAD
from . import output
from .common import Context, fail, pass_context
from .exits import Exit

PATIENCE = 1.0
"""Seconds that the worker's main thread has to answer."""

_LOOK = 0.01


@click.command("stack")
@click.argument("pid", type=click.IntRange(1, 2**22))
@click.option("--all", "-a", "everything", is_flag=True, help="Show every thread and frame, including those of this package.")
@pass_context
def stack_command(context: Context, pid: int, everything: bool) -> None:
    """Print the stack of every thread and asyncio task of the running worker PID, most recent call first.

    Threads that run the application's code come first; frames inside this package are omitted.

    Its jobs are not disturbed. Thread stacks are shown even if the worker hangs in C code; the tasks of its event loop,
    grouped by stack, if its main thread answers within a second. `jobsctl status` lists the workers.
    """
    path = _worker(context.place.run_dir, pid)
    output.echo(_introduction(path))
    stacks = path.with_name(path.name + STACKS)
    try:
        before = stacks.stat().st_size
    except OSError:
        fail(f"worker {pid} has just started and cannot be inspected yet: try again")
    _ask(path, pid)
    text, complete = _answer(stacks, before)
    if not text:
        fail(f"worker {pid} wrote nothing within {PATIENCE:g} s: is it stopped (SIGSTOP), or the disk full?")
    output.echo(readable(text, everything))
    if not complete:
        output.echo(
            f"The main thread did not answer within {PATIENCE:g} s: it is in a long call to C code or the system (above), so "
            "its asyncio tasks are not known."
        )


class Block(Struct):
    """The stack of a thread, or of several tasks with the same stack: a heading, and the frames, most recent first."""

    head: str
    frames: list[str]

    @property
    def ours(self) -> bool:
        """Return whether the stack contains no code of the application."""
        return bool(self.frames) and all(map(_is_plumbing, self.frames))

    def lines(self) -> list[str]:
        """Return the lines without the frames below the application's, in which our code and Python call it."""
        below = 0
        for frame in reversed(self.frames):
            if not _is_plumbing(frame):
                break
            below += 1
        kept = self.frames[: len(self.frames) - below]
        return [self.head, *kept, *([f"  … and {count(below, 'frame')} below, of jobs-core and Python"] if below else [])]


def readable(text: str, everything: bool = False) -> str:
    """Format a worker's output: threads with application code first, and only the names of our own threads.

    With `everything`, show all stacks in full.
    """
    names = dict(re.findall(rf"^{THREAD} (0x[0-9a-f]+) (.*)$", text, re.MULTILINE))
    threads: list[Block] = []
    tasks: list[Block] = []
    headline, current = "", Block("", [])
    for line in map(one_line, text.splitlines()):
        if line == END or line.startswith(f"{THREAD} ") or not line:
            continue
        thread = re.match(r"((?:Current t|T)hread) (0x[0-9a-f]+)\b(?! \[)", line)
        if line.startswith(f"{TASKS} "):
            headline = f"Asyncio tasks: {line.removeprefix(f'{TASKS} ')}"
        elif line.startswith(" ") and (threads or tasks):
            current.frames.append(line)
        else:
            if thread and thread[2] in names:
                line = line.replace(thread[2], f"{names[thread[2]]} ({thread[2]})", 1)
            current = Block(line, [])
            (tasks if headline else threads).append(current)
    lines = _shown(threads, "threads", everything)
    return "\n".join([*lines, *(["", headline, *_shown(tasks, "tasks", everything)] if headline else [])])


def _shown(blocks: list[Block], what: str, everything: bool) -> list[str]:
    if everything:
        return [line for block in blocks for line in (block.head, *block.frames)]
    ours = [block for block in blocks if block.ours]
    lines = [line for block in blocks if not block.ours for line in block.lines()]
    if ours:
        heads = ", ".join(
            re.sub(r"^(Current t|T)hread |( \(0x[0-9a-f]+\))? \(most recent call first\)|:$", "", each.head) for each in ours
        )
        lines.append(f"{what} that run no code of the application: {heads} (--all shows them)")
    return lines


_OURS = {"jobs_core", "jobs_redis", "jobs_rabbitmq", "jobs_zeromq", "jobs_postgres", "jobs_flask", "jobs_django"}
_PLUMBING = {
    "asyncio", "concurrent", "contextlib.py", "contextvars.py", "functools.py", "runpy.py", "selectors.py", "socketserver.py",
    "threading.py", "queue.py", "<frozen runpy>", "redis", "pika", "zmq", "psycopg",
}  # fmt: skip
"""Packages and modules through which our code calls the application, or in which our own threads wait."""

_LIBRARIES = {str(Path(os.__file__).parent), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}


def _is_plumbing(frame: str) -> bool:
    """Return whether a frame belongs to our code, or to a library through which it calls the application."""
    match = re.match(r'  File "(.*)", line', frame)
    if match is None:
        return frame.strip() in ("...", "<no Python frame>")
    path = Path(match[1])
    if any(part in _OURS for part in path.parts[:-1]):
        return True
    if match[1] in _PLUMBING:
        return True
    inside = next(
        (path.relative_to(root) for root in sorted(_LIBRARIES, key=len, reverse=True) if path.is_relative_to(root)), None
    )
    return inside is not None and inside.parts[0] in _PLUMBING


def _worker(directory: Path, pid: int) -> Path:
    """Return the scoreboard file of the worker with this process id."""
    others = []
    for path in worker_files(directory):
        try:
            file = WorkerFile(path)
        except (OSError, ValueError):  # the file was removed, or is not complete yet
            continue
        header = file.header()
        file.close()
        if alive(header):
            if header.pid == pid:
                return path
            others.append(header.pid)
    listed = ", ".join(map(str, sorted(others)[:10])) + (f" and {len(others) - 10} more" if len(others) > 10 else "")
    supervisor = running(directory)
    if supervisor is not None:
        number_here(directory, supervisor)  # raises InAnotherNamespace: process ids mean other processes there
    known = f"its workers are {listed}" if others else f"none runs in {directory}"
    return fail(f"process {pid} is not a worker of this installation: {known}", Exit.USAGE)


def _introduction(path: Path) -> str:
    """Describe the worker and its running jobs."""
    file = WorkerFile(path)
    header, jobs = file.header(), sorted(file.entries(), key=lambda entry: entry.started)
    file.close()
    text = f"worker {header.pid} of pool {header.pool} ({header.mode}, generation {header.generation})"
    if not jobs:
        return f"{text} is running no job"
    more = f", and {count(len(jobs) - 1, 'more job')}" if len(jobs) > 1 else ""
    return f"{text}\nrunning {jobs[0].id} {jobs[0].job} for {formatting.age(jobs[0].seconds())}{more}"


def _ask(path: Path, pid: int) -> None:
    """Signal the worker through a pidfd, since its process id may have been reused after it was read."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        fail(f"worker {pid} has just ended")
    try:
        file = WorkerFile(path)
        here = alive(file.header())
        file.close()
        if not here:
            fail(f"worker {pid} has just ended")
        signal.pidfd_send_signal(descriptor, SIGNAL)
    except PermissionError:
        fail(f"worker {pid} belongs to another user: run this as that user, or as root")
    except OSError:
        fail(f"worker {pid} has just ended")
    finally:
        os.close(descriptor)


def _answer(path: Path, before: int) -> tuple[str, bool]:
    """Return the text that was appended to the file, and whether it is complete."""
    deadline = time.monotonic() + PATIENCE
    end = f"\n{END}\n".encode()
    with path.open("rb") as file:
        file.seek(before)
        written = file.read()
        while end not in written and time.monotonic() < deadline:
            time.sleep(_LOOK)
            written += file.read()
    return written.partition(end)[0].decode(errors="replace"), end in written
