"""Exit functions run, bounded in time, whatever they do. Each case has its own process, which ends with it."""

from __future__ import annotations

import atexit
import concurrent.futures
import logging
import os
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from jobs_core.supervisor.processes import exit_functions, inherited

CODE = 5
PATIENCE = 0.4
"""Seconds that a hanging case takes."""


def ended(body: Callable[[], None], before_fork: Callable[[], None] = lambda: None) -> tuple[int, str]:
    """Run a function in a child and end it as a worker ends; return its exit code and output."""
    before_fork()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            os.dup2(writer, 1)
            sys.stdout = os.fdopen(os.dup(writer), "w")
            logging.basicConfig(stream=sys.stdout, force=True)
            atexit._clear()  # those of the test runner
            inherited.reset()
            body()
            exit_functions.exit_process(CODE, PATIENCE)
        finally:
            os._exit(99)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


def say(text: str) -> None:
    print(text, flush=True)


def fail() -> NoReturn:
    raise ValueError("no flush")


def hang() -> None:
    threading.Event().wait()


def registered(*functions: Callable[[], object]) -> Callable[[], None]:
    """Register exit functions; the last one runs first, as always."""

    def register() -> None:
        for function in functions:
            atexit.register(function)

    return register


def submitted(function: Callable[[], object]) -> Callable[[], None]:
    def submit() -> None:
        concurrent.futures.ThreadPoolExecutor(1).submit(function)
        atexit.register(say, "flushed")

    return submit


def flushed() -> None:
    say("flushed")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (registered(flushed), "flushed"),
        (registered(flushed, fail), "exit function fail failed"),
        (registered(flushed, lambda: sys.exit(3)), "failed"),
        (registered(flushed, lambda: os.kill(os.getpid(), 0)), "flushed"),
        (submitted(lambda: (time.sleep(0.05), say("submitted"))), "submitted"),  # 0.05: until well after it was submitted
        (submitted(hang), "submitted to an executor has not ended"),
        (submitted(fail), "flushed"),
    ],
)
def test_every_exit_function_runs_whatever_another_does(body: Callable[[], None], told: str):
    code, said = ended(body)
    assert code == CODE
    assert told in said
    assert "flushed" in said


def test_a_hanging_exit_function_is_reported_and_cut_off():
    begin = time.monotonic()
    code, said = ended(registered(flushed, hang))
    assert time.monotonic() - begin < 20.0, "it was bounded at all"
    assert code == CODE
    assert "has not ended within" in said
    assert "in wait" in said, "where it hung"


def test_objects_made_before_the_fork_are_cleaned_up_by_no_child(tmp_path: Path):
    directory = tempfile.TemporaryDirectory(dir=tmp_path)
    own: list[weakref.finalize] = []

    class Thing: ...

    thing = Thing()

    def body() -> None:
        own.append(weakref.finalize(thing, say, "own"))
        atexit.register(weakref.finalize._exitfunc)  # type: ignore[attr-defined]  # it was cleared with the runner's

    code, said = ended(body)
    assert (code, said) == (CODE, "own\n")
    assert Path(directory.name).is_dir()
    directory.cleanup()
