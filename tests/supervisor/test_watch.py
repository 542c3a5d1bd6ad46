"""`jobsctl start --reload`: development with the code as it is being edited."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ..support.project import TASKS, until


def watchers(directory: Path) -> list[int]:
    """Return the processes of `jobsctl start` that still run from this directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"--reload" in words and os.readlink(process / "cwd") == str(directory):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_a_changed_file_is_in_force_for_the_next_job(project):
    supervisor = project.start("start", "--reload")
    supervisor.until_said("ready: ")
    # A child that has just been forked, such as the housekeeper, shows the words of the supervisor until it has a title.
    (watcher,) = until(lambda: len(found := watchers(project.root)) == 1 and found)
    assert watcher != supervisor.pid
    project.push("note", "before")
    project.until_noted("note before")
    supervisor.until_said(" finished in ")  # by default while developing

    (project.root / "tasks.py").write_text(TASKS.replace('record("note", text)', 'record("noted", text)'))
    supervisor.until_said("tasks.py changed: reloading")
    supervisor.until_said("reload: generation 2 is serving")
    supervisor.until_said("stopped: ")  # until the stop has reached it, the old worker may take one more
    project.push("note", "after")
    project.until_noted("noted after")

    (project.root / "tasks.py").write_text("this is no Python")
    supervisor.until_said("refused")
    project.push("note", "still")
    project.until_noted("noted still")

    (project.root / "tasks.py").write_text(TASKS)
    supervisor.until_said("tasks.py changed: reloading", times=3)
    (project.root / "jobs.toml").write_text((project.root / "jobs.toml").read_text() + "[pools.default]\nworkers = 2\n")
    supervisor.until_said("jobs.toml changed: reloading")
    assert supervisor.stop() == 0
    until(lambda: watchers(project.root) == [])


def test_the_watcher_ends_with_a_supervisor_that_is_killed(project):
    supervisor = project.start("start", "--reload")
    supervisor.until_said("ready: ")
    supervisor.kill()
    until(lambda: watchers(project.root) == [])


@pytest.mark.parametrize(("arguments", "said"), [(["--daemon"], "leave out --daemon"), ([], "pip install 'jobs-core[reload]'")])
def test_impossible_combinations_with_reload_are_refused_with_the_reason(project, arguments, said):
    (project.root / "watchfiles.py").write_text("raise ImportError")
    done = project.run("start", "--reload", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
