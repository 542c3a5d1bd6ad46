"""A worker in the foreground obeys the signals that stop it, and a process that a job forks does not."""

from __future__ import annotations

import signal

import pytest

from jobs_core.worker.stop_signals import STOPS, obeying

from ..support.project import TASKS, Project

BUSY = (
    TASKS
    + """
import asyncio, hashlib, multiprocessing, signal

@job
def computes():
    record("start")
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 2**31 - 1)  # C code that looks at no signal
    record("end")

@job
def takes_the_descriptor():
    async def main():
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print)
        record("start")
        await asyncio.sleep(0.2)
    asyncio.run(main())
    record("end")

@job
def forks():
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    record("child", child.pid)
    child.terminate()
    child.join()
    record("ended", child.exitcode)
"""
)


@pytest.fixture
def busy(project: Project) -> Project:
    (project.root / "tasks.py").write_text(BUSY)
    return project


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGQUIT, signal.SIGINT])
def test_signals_are_handled_while_the_main_thread_is_in_a_long_c_call(busy, first, second):
    worker = busy.worker()
    busy.push("computes")
    busy.until_noted("start")
    worker.signal(first)
    worker.until_said("no new jobs")
    worker.signal(second)
    assert worker.wait() == 1
    assert "end" not in busy.ledger()


def test_an_event_loop_of_a_job_that_takes_the_signals_does_not_keep_a_worker_from_stopping(busy):
    worker = busy.worker()
    busy.push("takes_the_descriptor")
    busy.until_noted("start")
    assert worker.stop() == 0
    busy.until_noted("end")
    busy.push("takes_the_descriptor")
    worker = busy.worker()
    busy.until(lambda: busy.ledger().count("end") == 2)
    assert worker.stop() == 0


def test_a_signal_ends_a_process_forked_by_a_job_and_its_worker_continues(busy):
    worker = busy.worker()
    busy.push("forks")
    busy.until_noted(f"ended {-signal.SIGTERM}")
    busy.push("note", "after")
    busy.until_noted("note after")
    assert worker.stop() == 0


def test_handlers_are_as_they_were_afterwards():
    before = [signal.getsignal(number) for number in STOPS]
    stops: list[float | None] = []
    with obeying(stops.append):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert stops == [None, 0.0]
    assert [signal.getsignal(number) for number in STOPS] == before
    assert signal.set_wakeup_fd(-1) == -1
