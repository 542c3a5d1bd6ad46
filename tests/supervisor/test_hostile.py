"""Hostile jobs and machines: they cost themselves, and not their neighbours."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import pytest

from ..support.project import TASKS, Project, until
from ..support.supervised import Supervised, kill, seconds_until

FORKING = (
    TASKS
    + """
@job(retries=0)
def fork(text):
    record(text, "child" if os.fork() == 0 else "parent")

@job(retries=0)
async def afork(text):
    if os.fork() == 0:
        record(text, "child")
        raise ValueError("the child failed")
    record(text, "parent")
"""
)


@pytest.mark.parametrize(("mode", "job"), [("sync", "fork"), ("threads", "fork"), ("async", "fork"), ("async", "afork")])
def test_a_fork_in_a_job_ends_with_the_job_and_runs_no_other(project: Project, mode: str, job: str):
    (project.root / "tasks.py").write_text(FORKING)
    project.configure(f'pools.default.mode = "{mode}"\npools.default.concurrency = 1')
    names = [f"n{number}" for number in range(400)]
    calls: list[tuple[str, tuple[str, ...], dict[str, object]]] = [("note", (name,), {}) for name in names]
    project.push_many([*calls[:200], (job, ("forked",), {}), *calls[200:]])
    supervised = Supervised(project)
    project.until_noted("forked child", "forked parent", *[f"note {name}" for name in names])
    project.until_empty()
    (worker,) = supervised.pids()
    until(lambda: not children_of(worker))
    assert sorted(project.ledger()) == sorted(["forked child", "forked parent", *[f"note {name}" for name in names]])
    assert not project.dead()
    supervised.stop()


def children_of(pid: int) -> list[str]:
    """Return the running child processes of a process."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(entry.parent.name)
    return found


def test_without_descriptors_the_existing_workers_continue_and_the_fix_is_logged(project: Project):
    (project.root / "start.py").write_text(
        "import os, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'jobs_core', 'start'])\n"
    )
    process = project.start_python("start.py")
    process.until_said(" ready: ")
    descriptors = Path(f"/proc/{process.pid}/fd")
    until(lambda: any("/workers/" in target for target in _targets(descriptors)))  # it has looked once
    before = len(list(descriptors.iterdir()))
    assert project.run("scale", "default", "30").returncode == 0
    process.until_said("Too many open files (raise the limit: ulimit -n", times=4)
    assert project.run("scale", "default", "1").returncode == 0
    until(lambda: len(list(descriptors.iterdir())) <= before)  # files that failed attempts opened are closed
    assert project.run("scale", "default", "30").returncode == 0
    process.until_said("Too many open files", times=6)
    process.signal(signal.SIGHUP)
    process.until_said("refused")
    project.push("note")
    project.until_noted("note x")
    assert process.stop() == 0


def _targets(descriptors: Path) -> list[str]:
    """Return the open files of a process, except for those that it closes meanwhile."""
    targets = []
    for descriptor in descriptors.iterdir():
        with contextlib.suppress(FileNotFoundError):
            targets.append(str(descriptor.readlink()))
    return targets


def test_jobs_of_a_lost_machine_run_on_another_after_one_lease(project: Project):
    project.configure('lease = "3s"')
    gone = Supervised(project)
    project.push("nap", 600.0, "job")
    until(lambda: len(project.ledger()) == 1)
    other = project.start("start", JOBS_RUN_DIR=str(project.root / "other"))
    other.until_said(" ready: ")
    for pid in [gone.pid, *gone.children()]:
        kill(pid)
    assert seconds_until(lambda: len(project.ledger()) == 2) < 3.0 + 5.0, "35 s at the default lease of 30 s"
    other.signal(signal.SIGQUIT)
    assert other.wait() == 0
