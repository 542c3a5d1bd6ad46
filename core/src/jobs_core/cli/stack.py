"""`jobsctl stack`: show the current stacks of a worker."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import click

from ..operating import formatting
from ..operating.formatting import count
from ..operating.stacks import readable
from ..scoreboard.reader import WorkerFile, alive
from ..scoreboard.state import STACKS, worker_files
from ..supervisor.control import number_here
from ..supervisor.pidfile import running
from ..worker.stacks import END, SIGNAL
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

    Its jobs are not disturbed. Thread stacks are shown even if the worker hangs in C code. The tasks of its event loop,
    grouped by stack, are shown if its main thread answers within a second. `jobsctl status` lists the workers.
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
