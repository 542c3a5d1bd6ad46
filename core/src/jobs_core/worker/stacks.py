"""The stacks of a process, in a file that other processes read: USR2 appends them, and so does a crash.

First comes faulthandler's dump of all threads, which nothing in the process can delay. As soon as the main thread runs
Python code, it appends the names of the threads, the asyncio tasks of its loop (grouped by stack, with their number)
and a line `== end`. Jobs notice only a pause of the main thread: system calls continue, and nothing is raised.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from ..units import count

END = "== end"
THREAD = "== thread"
TASKS = "== tasks"
SIGNAL = signal.SIGUSR2

_MOST_STACKS = 50  # different stacks of tasks
_MOST_FRAMES = 30
_descriptor: int | None = None

Place = tuple[CodeType, int]


def arm(path: Path) -> None:
    """Start to write stacks to this file on USR2 and on a crash. Called in the main thread; raises OSError.

    Once the file exists, USR2 is harmless. Processes that this one forks or executes are not armed.
    """
    global _descriptor
    _disarm()
    signal.signal(SIGNAL, _add_names_and_tasks)
    _descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    faulthandler.enable(_descriptor)
    faulthandler.register(SIGNAL, _descriptor, chain=True)
    if _disarm not in _at_fork:
        _at_fork.append(_disarm)
        os.register_at_fork(after_in_child=_disarm)


_at_fork: list[object] = []


def _disarm() -> None:
    """Disarm a forked child, or this process: crashes are no longer written, and USR2 gets its default action."""
    global _descriptor
    if _descriptor is None:
        return
    faulthandler.unregister(SIGNAL)
    faulthandler.disable()
    os.close(_descriptor)
    _descriptor = None
    if signal.getsignal(SIGNAL) is _add_names_and_tasks:
        signal.signal(SIGNAL, signal.SIG_DFL)


def _add_names_and_tasks(signum: int, frame: FrameType | None) -> None:
    """Write the Python part of the answer to USR2; an error here must not affect the job that it interrupts."""
    if _descriptor is None:
        return
    try:
        text = "".join(f"{line}\n" for line in (*_threads(), *_tasks(), END))
    except Exception as error:
        text = f"{TASKS} cannot be told: {type(error).__name__}: {error}\n{END}\n"
    with contextlib.suppress(OSError):  # the disk is full
        left = text.encode(errors="replace")
        while left:
            left = left[os.write(_descriptor, left) :]


def _threads() -> Iterator[str]:
    for thread in threading.enumerate():
        if thread.ident is not None:
            yield f"{THREAD} 0x{thread.ident:0{_WORD}x} {thread.name}"


_WORD = 16 if sys.maxsize > 2**32 else 8


def _tasks() -> Iterator[str]:
    asyncio = sys.modules.get("asyncio")
    loop = asyncio._get_running_loop() if asyncio else None
    if asyncio is None or loop is None:
        return
    tasks = asyncio.all_tasks(loop)
    current = asyncio.current_task(loop)
    stacks = Counter((task is current, tuple(places(task.get_coro()))[::-1]) for task in tasks)
    yield f"{TASKS} {len(tasks)} (most recent call first)"
    for (running, stack), number in stacks.most_common(_MOST_STACKS):
        yield f"{count(number, 'task')}{', running now' if running else ''}:"
        for code, line in stack:
            yield f'  File "{code.co_filename}", line {line} in {code.co_name}'
    left = len(stacks) - _MOST_STACKS
    if left > 0:
        yield f"and {count(left, 'more stack')}"


def places(awaited: Any) -> Iterator[Place]:
    """Yield the positions of a coroutine, from the outermost frame to the one that it finally awaits."""
    for _ in range(_MOST_FRAMES):
        for prefix in ("cr", "gi", "ag"):
            frame = getattr(awaited, f"{prefix}_frame", None)
            if frame is not None:
                yield frame.f_code, frame.f_lineno or 0
                awaited = getattr(awaited, "gi_yieldfrom" if prefix == "gi" else f"{prefix}_await")
                break
        else:
            return
