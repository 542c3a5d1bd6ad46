"""Trace the way of two jobs, from enqueue to settlement, through the files of the core.

    python tools/trace_way.py [--mode sync|threads|async] [--moves]

Two plain jobs with default options go through a warm worker on the memory backend. A profile function counts the files
whose code runs, and the moves of a thread from one file to another, by a call or a return. The script prints them, and
the files as a tree for each thread: every file is below the file that called it, with the number of calls. Code of
other packages and of the standard library does not count.

Threads meet at slightly different points each time; the script repeats the two jobs and prints the median trace.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeAlias

import jobs_core
from jobs_core import App, job, set_current_app
from jobs_core.config import Config, Pool
from jobs_core.plugins import Plugins
from jobs_core.registry import Registry
from jobs_core.worker.main import Worker

ROOT = str(Path(jobs_core.__file__).parent) + "/"
OUTSIDE = {"worker/main.py"}  # it starts the threads: on every stack, but no job passes it
WARM_UP, ROUNDS = 50, 21
QUIET = 0.02
"""Seconds until a worker that was told to reserve nothing sleeps."""

Mode: TypeAlias = Literal["sync", "threads", "async"]

Files: TypeAlias = tuple[str, ...]
"""A path of files, each called by the one before."""


class Trace:
    """The calls and the moves between files that two jobs made."""

    def __init__(self) -> None:
        self.calls: dict[str, Counter[Files]] = {}  # by thread
        self.moves: Counter[tuple[str, str]] = Counter()
        self.settled = threading.Event()
        self._unsettled = 2

    @property
    def files(self) -> set[str]:
        return {path[-1] for calls in self.calls.values() for path in calls}

    def settle(self, jobs: int) -> None:
        self._unsettled -= jobs
        if self._unsettled <= 0:
            self.settled.set()


class Tracer:
    """A profile function for every thread; it costs much, and records only while there is a `trace`."""

    def __init__(self) -> None:
        self.trace: Trace | None = None
        threading.setprofile(self._begin)
        sys.setprofile(self._profile())

    def _begin(self, frame: FrameType, event: str, argument: Any) -> None:
        sys.setprofile(self._profile())

    def _profile(self) -> Callable[[FrameType, str, Any], None]:
        thread, here = threading.current_thread().name, ""

        def profile(frame: FrameType, event: str, argument: Any) -> None:
            nonlocal here
            trace = self.trace
            if trace is None:
                here = ""
                return
            if event not in ("call", "return") or not frame.f_code.co_filename.startswith(ROOT):
                return
            path = _path(frame if event == "call" else frame.f_back)
            if not path:
                return
            if event == "call":
                trace.calls.setdefault(thread, Counter())[path] += 1
            if here and here != path[-1]:
                trace.moves[here, path[-1]] += 1
            here = path[-1]
            if event == "return" and _is_settle(frame):
                trace.settle(len(frame.f_locals["settlements"]))
                if trace.settled.is_set():
                    self.trace = None

        return profile


def _is_settle(frame: FrameType) -> bool:
    return frame.f_code.co_name == "settle" and frame.f_code.co_filename == f"{ROOT}backends/memory/backend.py"


def _path(frame: FrameType | None) -> Files:
    """Return the core's files on this stack, outermost first, without repetitions."""
    files: list[str] = []
    while frame is not None:
        name = frame.f_code.co_filename.removeprefix(ROOT)
        if frame.f_code.co_filename.startswith(ROOT) and name not in OUTSIDE and files[-1:] != [name]:
            files.append(name)
        frame = frame.f_back
    return tuple(reversed(files))


def traces(mode: Mode) -> list[Trace]:
    """Send two jobs through a warm worker, several times; return the trace of each."""
    registry = Registry()
    app = App(Config(backend="memory://trace-way"), plugins=Plugins(), registry=registry)
    set_current_app(app)
    add = job(registry=registry, name="add")(lambda a, b: a + b)
    tracer, found = Tracer(), []
    worker = Worker(app, "trace", Pool(mode=mode, concurrency=2), None, keeps_house=False)

    def drive() -> None:
        for number in range(WARM_UP + ROUNDS):
            worker.courier.quiet()  # it then reserves both jobs at once, as a busy worker would
            time.sleep(QUIET)
            tracer.trace = trace = Trace()
            add.enqueue(1, 2)
            add.enqueue(3, 4)
            worker.courier.serve()
            if not trace.settled.wait(10.0):
                break
            if number >= WARM_UP:
                found.append(trace)
        worker.courier.stop()

    driving = threading.Thread(target=drive, name="application")
    driving.start()
    worker.run()
    driving.join()
    return found


def picture(trace: Trace) -> list[str]:
    """Return the files that each thread passed, as lines of a tree."""
    lines: list[str] = []
    for thread, calls in trace.calls.items():
        lines.append(thread.replace("MainThread", "executor").replace("jobs-", ""))
        lines += _branch((), calls, "")
    return lines


def _branch(parent: Files, calls: Counter[Files], indent: str) -> list[str]:
    depth = len(parent) + 1
    children = dict.fromkeys(path[:depth] for path in calls if len(path) >= depth and path[: depth - 1] == parent)
    lines: list[str] = []
    for number, child in enumerate(children):
        last = number == len(children) - 1
        times = f" ×{calls[child]}" if calls[child] > 1 else ""
        lines.append(f"{indent}{'└' if last else '├'} {child[-1]}{times}")
        lines += _branch(child, calls, indent + ("  " if last else "│ "))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Trace the way of two jobs through the files of the core.")
    parser.add_argument("--mode", choices=("sync", "threads", "async"), default="sync")
    parser.add_argument("--moves", action="store_true", help="list the moves between each two files")
    options = parser.parse_args()
    found = sorted(traces(options.mode), key=lambda trace: trace.moves.total())
    if not found:
        raise SystemExit("the two jobs were not settled in time")
    trace = found[len(found) // 2]
    calls = sum(each.total() for each in trace.calls.values())
    print(f"{len(trace.files)} files, {trace.moves.total()} moves between files, {calls} calls\n")
    print("\n".join(picture(trace)))
    if options.moves:
        print()
        for (source, target), times in trace.moves.most_common():
            print(f"{times:4} {source} → {target}")


if __name__ == "__main__":
    main()
