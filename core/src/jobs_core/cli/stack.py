"""`jobsctl stack`: what a worker is doing right now, line by line."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import click

from ..escapes import one_line
from ..scoreboard.reader import WorkerFile, alive
from ..scoreboard.state import STACKS, worker_files
from ..supervisor.control import number_here
from ..supervisor.pidfile import running
from ..worker.stacks import END, SIGNAL, TASKS, THREAD
from . import figures, output
from .common import Context, fail, pass_context
from .exits import Exit

PATIENCE = 1.0
"""How long the worker's main thread has to answer, seconds."""

_LOOK = 0.01


@click.command("stack")
@click.argument("pid", type=click.IntRange(1, 2**22))
@pass_context
def stack_command(context: Context, pid: int) -> None:
    """Print where every thread and asyncio task of the running worker PID is, most recent call first.

    Its jobs are not disturbed. Thread stacks come even from a worker that hangs in C code; the tasks of its event loop are
    shown, those of one stack together, where its main thread answers within a second. `jobsctl status` shows the workers.
    """
    path = _worker(context.place.run_dir, pid)
    output.echo(_introduction(path))
    stacks = path.with_name(path.name + STACKS)
    try:
        before = stacks.stat().st_size
    except OSError:
        fail(f"worker {pid} has just been started and cannot be looked into yet: try again")
    _ask(path, pid)
    text, complete = _answer(stacks, before)
    if not text:
        fail(f"worker {pid} wrote nothing within {PATIENCE:g} s: is it stopped (SIGSTOP), or the disk full?")
    output.echo(readable(text))
    if not complete:
        output.echo(
            f"The main thread did not answer within {PATIENCE:g} s: it is in a long call of C code or of the system (above), "
            "and whether there are asyncio tasks is not known."
        )


def readable(text: str) -> str:
    """What the worker wrote, with the names of its threads in their place."""
    names = dict(re.findall(rf"^{THREAD} (0x[0-9a-f]+) (.*)$", text, re.MULTILINE))
    lines: list[str] = []
    for line in text.splitlines():
        line = one_line(line)
        if line == END or line.startswith(f"{THREAD} "):
            continue
        if line.startswith(f"{TASKS} "):
            line = f"\nAsyncio tasks: {line.removeprefix(f'{TASKS} ')}"
        match = re.match(r"((?:Current t|T)hread) (0x[0-9a-f]+)\b(?! \[)", line)
        if match and match[2] in names:
            line = line.replace(match[2], f"{names[match[2]]} ({match[2]})", 1)
        lines.append(line)
    return "\n".join(lines).strip("\n")


def _worker(directory: Path, pid: int) -> Path:
    """The scoreboard file of the worker with this process id."""
    others = []
    for path in worker_files(directory):
        try:
            file = WorkerFile(path)
        except (OSError, ValueError):  # gone, or not yet written
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
        number_here(directory, supervisor)  # raises InAnotherNamespace: there its workers have other numbers
    known = f"its workers are {listed}" if others else f"none runs in {directory}"
    return fail(f"process {pid} is no worker of this installation: {known}", Exit.USAGE)


def _introduction(path: Path) -> str:
    """Who the worker is, and what it runs."""
    file = WorkerFile(path)
    header, jobs = file.header(), sorted(file.entries(), key=lambda entry: entry.started)
    file.close()
    text = f"worker {header.pid} of pool {header.pool} ({header.mode}, generation {header.generation})"
    if not jobs:
        return f"{text} runs no job"
    longest = f"{jobs[0].job} {jobs[0].id} since {figures.age(jobs[0].seconds())}"
    return f"{text} runs {longest}" + (f" and {len(jobs) - 1:,} more" if len(jobs) > 1 else "")


def _ask(path: Path, pid: int) -> None:
    """Send the signal to that very process: its number may have been given to another since we looked."""
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
        fail(f"worker {pid} belongs to another user: call this as that user, or as root")
    except OSError:
        fail(f"worker {pid} has just ended")
    finally:
        os.close(descriptor)


def _answer(path: Path, before: int) -> tuple[str, bool]:
    """What was appended to the file, and whether it came to its end."""
    deadline = time.monotonic() + PATIENCE
    end = f"\n{END}\n".encode()
    with path.open("rb") as file:
        file.seek(before)
        written = file.read()
        while end not in written and time.monotonic() < deadline:
            time.sleep(_LOOK)
            written += file.read()
    return written.partition(end)[0].decode(errors="replace"), end in written
