"""The stacks of a worker as people read them: the application's code first, and without what calls it."""

from __future__ import annotations

import os
import re
import sysconfig
from pathlib import Path

from msgspec import Struct

from ..escapes import one_line
from ..worker.stacks import END, TASKS, THREAD
from .formatting import count


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
