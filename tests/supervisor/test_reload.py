"""Reloads: new code without a gap, refused if it cannot be loaded."""

from __future__ import annotations

import shlex
import signal
import socket
import sys
from pathlib import Path

import pytest

from jobs_core.supervisor.control import _address, ask
from jobs_core.supervisor.system.channel import Channel

from ..support.project import TASKS, Project, until
from ..support.supervised import Supervised


def test_twenty_reloads_under_load_run_every_job_once(project: Project):
    project.configure("pools.default.workers = 2")
    supervised = Supervised(project)
    names = [f"n{number}" for number in range(2000)]
    for reload in range(20):
        project.push_many([("note", (name,), {}) for name in names[reload * 100 : (reload + 1) * 100]])
        assert ask(supervised.run_dir, {"do": "reload"}, timeout=None)["done"]
    project.until_empty()
    assert sorted(project.ledger()) == sorted(f"note {name}" for name in names)
    assert not project.dead()
    supervised.until(lambda board: board.supervisor and board.supervisor.reloads["done"] == 20)  # written 50 ms later
    state = supervised.board().supervisor
    assert state is not None
    assert state.crashed == 0
    supervised.stop()


def test_new_code_serves_and_the_old_finishes_its_running_jobs(project: Project):
    supervised = Supervised(project)
    project.push("held", "long")
    project.until(lambda: any(line.startswith("start long") for line in project.ledger()))
    (project.root / "tasks.py").write_text(TASKS.replace('record("note", text)', 'record("new note", text)'))
    supervised.process.signal(signal.SIGHUP)
    supervised.process.until_said("generation 2 is serving")
    project.push("note", "x")
    project.until_noted("new note x")
    assert project.times("end long") == 0, "new code serves beside the old"
    (project.root / "go").touch()
    project.until_noted("end long")
    assert sum(line.startswith("start long") for line in project.ledger()) == 1
    supervised.stop()


def test_code_that_cannot_be_imported_is_refused_with_the_users_line(project: Project):
    supervised = Supervised(project)
    before = supervised.pids()
    (project.root / "tasks.py").write_text("def broken(:\n")
    refused = project.run("reload")
    assert refused.returncode == 1
    assert "tasks.py" in refused.stderr
    assert "SyntaxError" in refused.stderr
    assert supervised.pids() == before
    (project.root / "tasks.py").write_text(TASKS)
    assert project.run("reload").returncode == 0
    project.push("note", "x")
    project.until_noted("note x")
    supervised.stop()


def test_code_whose_workers_cannot_boot_is_refused(project: Project):
    project.configure("pools.default = {workers = 2, preload = false}")
    supervised = Supervised(project)
    before = supervised.pids()
    (project.root / "tasks.py").write_text("raise RuntimeError('no licence')\n")
    refused = project.run("reload")
    assert refused.returncode == 1
    assert "no licence" in refused.stderr
    supervised.until_serving(2)
    assert supervised.pids() == before
    supervised.stop()


def test_a_reload_asked_for_during_another_is_answered_for_itself(project: Project):
    held = "\nrecord('import')\nwhile (Path(__file__).parent / 'hold').exists(): time.sleep(0.01)\n"
    (project.root / "tasks.py").write_text(TASKS + held)
    supervised = Supervised(project)
    hold = project.root / "hold"
    hold.touch()
    first = asked_to_reload(supervised)
    until(lambda: project.times("import") == 2)
    second = asked_to_reload(supervised)
    ask(supervised.run_dir, {"do": "quiet", "on": False})  # answered, and so the second was received
    (project.root / "tasks.py").write_text("def broken(:\n")
    hold.unlink()
    assert first.receive()[0] == {"done": True, "error": "", "generation": 2}
    refused, _ = second.receive()
    assert refused is not None
    assert not refused["done"]
    assert "SyntaxError" in refused["error"]
    first.close()
    second.close()
    supervised.stop()


def asked_to_reload(supervised: Supervised) -> Channel:
    """Request a reload; return the connection on which the answer will come."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with _address(supervised.run_dir) as address:
        connection.connect(address)
    channel = Channel(connection)
    channel.send({"do": "reload"})
    return channel


def test_a_broken_configuration_is_refused_and_a_good_one_taken_over(project: Project):
    supervised = Supervised(project)
    project.configure("pools.default.wrokers = 2")
    refused = project.run("reload")
    assert refused.returncode != 0
    assert "wrokers" in refused.stderr
    project.configure('pools.default.workers = 2\npools.other.topics = ["other"]')
    done = project.run("reload")
    assert done.returncode == 0, done.stderr
    supervised.until_serving(3)
    project.push("note", "x", topic="other")
    project.until_noted("note x")
    project.configure('pools.other.topics = ["other"]')
    assert project.run("reload").returncode == 0
    supervised.until_serving(1)
    supervised.stop()


def test_a_removed_pool_is_forgotten_and_can_return(project: Project):
    with_other = 'pools.other.topics = ["other"]\npools.default.workers = 1'
    project.configure(with_other)
    supervised = Supervised(project)
    project.push("nap", 2.0, "meanwhile", topic="other")
    project.until(lambda: "start meanwhile" in " ".join(project.ledger()))
    for configuration in ("pools.default.workers = 1", with_other):  # the second while the first one's worker still runs
        project.configure(configuration)
        assert project.run("reload").returncode == 0
    project.push("note", "again", topic="other")
    project.until_noted("note again")
    project.configure("pools.default.workers = 1")
    assert project.run("reload").returncode == 0
    supervised.until(lambda board: board.supervisor and [pool.name for pool in board.supervisor.pools] == ["default"])
    supervised.stop()


RELEASE = """
from jobs_core import job
import helper

@job
def version():
    with open({ledger!r}, "a") as ledger:
        ledger.write(helper.NAME + " " + open("name").read() + "\\n")
"""


class Releases:
    """Two releases of one application, and `current`, the link to the one in use."""

    def __init__(self, root: Path, settings: str) -> None:
        self.root, self.current, self.ledger = root, root / "current", root / "ledger"
        (root / "name").write_text("outside")
        for name in ("A", "B"):
            release = root / name
            release.mkdir(parents=True)
            (release / "tasks.py").write_text(RELEASE.format(ledger=str(self.ledger)))
            (release / "helper.py").write_text(f"NAME = {name!r}")
            (release / "name").write_text(name)
            (release / "jobs.toml").write_text(f'modules = ["tasks"]\n{settings.format(root=root)}\n')
        self.current.symlink_to("A")

    def switch(self) -> None:
        (self.root / "next").symlink_to("B")
        (self.root / "next").rename(self.current)


STARTS = {
    "by its path": ("cd {root}", "-c {root}/current/jobs.toml", "outside"),
    "from its directory": ("cd {root}/current", "", "B"),
    "by a relative path": ("cd {root}", "-c A/../current/jobs.toml", "outside"),
}
"""Ways to name the configuration, and where jobs run after the reload."""


@pytest.mark.parametrize(
    ("start", "by"),
    [
        ("by its path", "command"),
        ("by its path", "signal"),
        ("from its directory", "command elsewhere"),
        ("from its directory", "signal"),
        ("by a relative path", "signal"),
    ],
)
def test_a_reload_follows_a_link_that_leads_to_another_release(project: Project, start: str, by: str):
    releases = Releases(project.root, 'run_dir = "{root}/run"')
    place, option, directory = (text.format(root=releases.root) for text in STARTS[start])
    jobs = f"{place} && exec {shlex.quote(sys.executable)} -m jobs_core {option}"
    supervisor = project.start_program("/bin/sh", "-c", f"{jobs} start")
    supervisor.until_said(" ready: ")
    releases.switch()
    if by == "signal":
        supervisor.signal(signal.SIGHUP)
    elif by == "command":
        assert project.start_program("/bin/sh", "-c", f"{jobs} reload").wait() == 0
    else:
        assert project.run("-c", str(releases.root / "B" / "jobs.toml"), "reload").returncode == 0
    supervisor.until_said("generation 2 is serving")
    pushed = project.run("-c", str(releases.root / "B" / "jobs.toml"), "push", "tasks.version")
    assert pushed.returncode == 0, pushed.stderr
    until(releases.ledger.exists)
    assert until(releases.ledger.read_text) == f"B {directory}\n"
    assert supervisor.stop() == 0


@pytest.mark.parametrize("settings", ["", 'run_dir = "{root}/run"\nbackend = "sqlite:///queue.db"'])
def test_a_reload_that_would_leave_the_queue_behind_is_refused(project: Project, settings: str):
    releases = Releases(project.root, settings)
    supervisor = project.start("-c", str(releases.current / "jobs.toml"), "start")
    supervisor.until_said(" ready: ")
    releases.switch()
    supervisor.signal(signal.SIGHUP)
    supervisor.until_said("would be left behind")
    assert supervisor.stop() == 0
