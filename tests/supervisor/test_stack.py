"""`jobsctl stack PID` looks into real processes, and disturbs none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from jobs_core.cli import stack as command

from ..support.project import PATIENCE

HEAD = """
import os, signal, sys, time
from pathlib import Path
from jobs_core.scoreboard.writer import FileScoreboard
from jobs_core.worker import stacks

workers = Path(".jobs/workers")
workers.mkdir(parents=True, exist_ok=True)
stacks.arm(workers / "w1.stacks")
board = FileScoreboard(workers / "w1", owner="w1", pool="mail", generation=1, mode="sync", slots=1)
"""


@pytest.fixture
def process(project):
    """Start a lone process with a worker's stack handler; it prints `ready`."""

    def start(body, head=HEAD):
        (project.root / "lone.py").write_text(head + textwrap.dedent(body))
        made = project.start_python("lone.py")
        made.until_said("ready")
        return made

    return start


@pytest.fixture
def patient(monkeypatch):
    """Let processes answer as late as they come to run on a busy machine."""
    monkeypatch.setattr(command, "PATIENCE", PATIENCE)


def stack(project, pid, code=0):
    text = project.here("stack", str(pid), code=code)
    assert "Traceback" not in text
    return text


def test_threads_are_shown_by_name(project, process, patient):
    lone = process(
        """
        import threading
        def courier():
            threading.Event().wait()
        def job():
            print("ready", flush=True)
            time.sleep(600)
        threading.Thread(target=courier, name="jobs-courier", daemon=True).start()
        job()
        """
    )
    text = stack(project, lone.pid)
    assert text.startswith(f"worker {lone.pid} of pool mail (sync, generation 1) is running no job\n")
    assert "hread jobs-courier (0x" in text
    assert "hread MainThread (0x" in text
    assert " in courier\n" in text
    assert " in job\n" in text
    assert "== " not in text
    assert "did not answer" not in text


def test_tasks_are_counted_by_stack_the_most_frequent_first(project, process, patient):
    lone = process(
        """
        import asyncio
        async def fetch(wait):
            await wait
        async def many():
            await fetch(asyncio.sleep(600))
        async def few():
            await asyncio.Event().wait()
        async def main():
            tasks = [asyncio.create_task(many()) for _ in range(5000)] + [asyncio.create_task(few()) for _ in range(3)]
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(lambda: print("ready", flush=True))  # once this task waits, too
            await asyncio.gather(*tasks)
        asyncio.run(main())
        """
    )
    text = stack(project, lone.pid)
    assert "Asyncio tasks: 5004 (most recent call first)\n5,000 tasks:\n" in text
    counts = [line for line in text.splitlines() if line.endswith((" tasks:", " task:"))]
    assert counts == ["5,000 tasks:", "3 tasks:", "1 task:"]
    group = text.split("5,000 tasks:\n")[1].split("3 tasks:")[0]
    assert [line.rpartition(" in ")[2] for line in group.splitlines()] == ["sleep", "fetch", "many"]


def test_the_task_that_blocks_the_loop_is_named(project, process, patient):
    lone = process(
        """
        import asyncio
        async def blocks():
            print("ready", flush=True)
            while True:
                pass
        asyncio.run(blocks())
        """
    )
    assert "1 task, running now:\n" in stack(project, lone.pid)


def test_a_main_thread_that_hangs_in_c_is_still_shown_and_marked_as_not_answering(project, process):
    lone = process(
        """
        def hangs():
            print("ready", flush=True)
            sum(range(10 ** 12))
        hangs()
        """
    )
    text = stack(project, lone.pid)
    assert " in hangs\n" in text
    assert "The main thread did not answer within 1 s" in text


def test_two_looks_show_each_its_own(project, process, patient):
    lone = process('print("ready", flush=True)\ntime.sleep(600)')
    first, second = stack(project, lone.pid), stack(project, lone.pid)
    assert first.count("MainThread") == second.count("MainThread") == 1


def test_a_job_notices_nothing(project, process):
    lone = process(
        """
        import select
        reader, writer = os.pipe()
        print("ready", flush=True)
        started = time.monotonic()
        time.sleep(1.0)                       # sleeps on
        assert time.monotonic() - started >= 1.0
        assert select.select([reader], [], [], 0.3) == ([], [], [])
        child = os.fork()
        if child == 0:
            time.sleep(0.5)
            os.write(writer, b"x")
            os._exit(0)
        assert os.read(reader, 1) == b"x"     # reads on
        os.waitpid(child, 0)
        print("undisturbed", flush=True)
        time.sleep(600)
        """
    )
    stacks = project.root / ".jobs/workers/w1.stacks"
    while lone.lines == ["ready"]:
        seen = stacks.stat().st_size
        lone.signal(signal.SIGUSR2)
        project.until(lambda: stacks.stat().st_size > seen)
    assert lone.lines == ["ready", "undisturbed"]


def test_forks_and_programs_started_by_a_job_have_pythons_default_handlers(project, process):
    lone = process(
        """
        import faulthandler, subprocess
        child = os.fork()
        if child == 0:
            assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
            assert not faulthandler.is_enabled()
            os.kill(os.getpid(), signal.SIGUSR2)
            os._exit(1)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGUSR2
        done = subprocess.run([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGUSR2)"])
        assert done.returncode == -signal.SIGUSR2
        assert os.path.getsize(workers / "w1.stacks") == 0
        print("ready", flush=True)
        """
    )
    assert lone.wait() == 0, lone.output


def test_a_child_that_arms_itself_has_a_file_of_its_own(project, process):
    lone = process(
        """
        child = os.fork()
        if child == 0:
            stacks.arm(workers / "w2.stacks")
            os.kill(os.getpid(), signal.SIGSEGV)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGSEGV
        assert os.path.getsize(workers / "w1.stacks") == 0
        print("ready", flush=True)
        """
    )
    assert lone.wait() == 0, lone.output
    assert "Segmentation fault" in (project.root / ".jobs/workers/w2.stacks").read_text()


def test_only_workers_of_this_run_directory_are_looked_into(project, process):
    assert "is not a worker of this installation: none runs in" in stack(project, os.getpid(), 2)
    lone = process('print("ready", flush=True)\ntime.sleep(600)')
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        text = stack(project, stranger.pid, 2)
        assert f"process {stranger.pid} is not a worker of this installation: its workers are {lone.pid}" in text
        assert stranger.poll() is None
    finally:
        stranger.communicate(b"\n")
    assert lone.kill() == -9
    assert "none runs in" in stack(project, lone.pid, 2)


def test_a_stopped_process_is_recognised(project, process):
    lone = process('print("ready", flush=True)\ntime.sleep(600)')
    lone.signal(signal.SIGSTOP)
    assert "wrote nothing within 1 s: is it stopped (SIGSTOP)" in stack(project, lone.pid, 1)
