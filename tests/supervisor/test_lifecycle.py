"""Start, stop, exit, restart, the background, a second start; signals and exit codes: the real command in real processes."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path

import pytest

from jobs_core.scoreboard.writer import start_ticks
from jobs_core.supervisor.control import ask
from jobs_core.supervisor.pidfile import running

from ..support.project import Project, until
from ..support.supervised import Supervised, gone


def test_start_runs_jobs_and_stop_ends_everything(project: Project):
    project.configure("pools.default.workers = 2")
    supervised = Supervised(project)
    project.push("note", "one")
    project.until_noted("note one")
    until(lambda: len(supervised.children()) == 5)  # template and its spare, housekeeper, two workers
    everybody = [(pid, start_ticks(pid)) for pid in supervised.children()]
    done = project.run("stop")
    assert done.returncode == 0, done.stderr
    assert "stopped" in done.stdout
    assert supervised.process.wait() == 0
    assert all(gone(pid, ticks) for pid, ticks in everybody)
    assert running(supervised.run_dir) is None
    assert not list((supervised.run_dir / "workers").iterdir())


def test_stop_waits_for_running_jobs_names_them_and_releases_the_rest(project: Project):
    supervised = Supervised(project)
    project.push_many([("held", (f"n{number}",), {}) for number in range(3)])
    until(lambda: any(line.startswith("start n0") for line in project.ledger()))
    stop = project.start("stop")
    stop.until_said("waiting for 1 worker busy: tasks.held")
    (project.root / "go").touch()
    assert stop.wait() == 0
    assert supervised.process.wait() == 0
    assert [line.split()[:2] for line in project.ledger()] == [["start", "n0"], ["end", "n0"]]
    supervised = Supervised(project)
    project.until_noted("end n1", "end n2")
    assert len(project.ledger()) == 6, "nothing ran twice"
    supervised.stop()


@pytest.mark.parametrize("stubborn", ["nap", "hold"])
def test_after_stop_timeout_the_rest_is_killed_and_goes_back_uncharged(project: Project, stubborn: str):
    if stubborn == "hold":  # holds the interpreter lock: the courier cannot even release it
        (project.root / "tasks.py").write_text(
            (project.root / "tasks.py").read_text()
            + "\nimport sys\n@job\ndef hold(seconds: float, text: str):\n"
            + "    record('start', text, os.getpid())\n    sys.setswitchinterval(3600)\n    end = time.monotonic() + seconds\n"
            + "    while time.monotonic() < end: pass\n    record('end', text)\n"
        )
    project.configure('pools.default.stop_timeout = "300ms"')
    supervised = Supervised(project)
    job_id = project.push(stubborn, 60.0, "long")
    until(lambda: any(line.startswith("start long") for line in project.ledger()))
    assert supervised.stop() == 0
    record = project.app().operate(lambda backend: backend.get(job_id))
    assert record is not None
    assert (record.state.value, record.attempt, record.redeliveries, record.crashes) == ("ready", 0, 0, 0)


def test_exit_kills_at_once_and_loses_nothing(project: Project):
    supervised = Supervised(project)
    job_id = project.push("nap", 600.0, "long")
    until(lambda: any(line.startswith("start long") for line in project.ledger()))
    done = project.run("exit")
    assert done.returncode == 0, done.stderr
    assert supervised.process.wait() == 0
    record = project.app().operate(lambda backend: backend.get(job_id))
    assert record is not None
    assert (record.state.value, record.redeliveries, record.crashes) == ("ready", 0, 0)


def test_a_second_interrupt_ends_at_once(project: Project):
    supervised = Supervised(project)
    project.push("nap", 600.0, "long")
    until(lambda: any(line.startswith("start long") for line in project.ledger()))
    supervised.process.signal(signal.SIGINT)
    supervised.process.until_said("stopping")
    supervised.process.signal(signal.SIGINT)
    supervised.process.until_said("stopping immediately")
    assert supervised.process.wait() == 0


def test_a_second_start_names_the_running_supervisor_and_harms_nothing(project: Project):
    supervised = Supervised(project)
    before = supervised.pids()
    again = project.run("start")
    assert again.returncode == 0
    assert f"a supervisor is already running here: process {supervised.pid}" in again.stderr
    assert supervised.pids() == before
    supervised.stop()


def test_in_the_background_it_returns_once_workers_are_serving(project: Project):
    started = project.run("start", "--daemon")
    assert started.returncode == 0, started.stderr
    pid = running(project.root / ".jobs")
    assert pid is not None
    log = project.root / ".jobs" / "jobs.log"
    assert started.stdout.startswith(f"jobs: started, process {pid}, which logs to {log}\n")
    assert f"\nlog {log}\n" in project.here("status")
    assert os.getsid(pid) != os.getsid(0)
    project.push("note", "one")
    project.until_noted("note one")
    assert project.run("start", "--daemon").returncode == 0
    assert project.run("restart").returncode == 0
    other = running(project.root / ".jobs")
    assert other not in (None, pid)
    assert project.run("stop").returncode == 0
    assert " stopped" in (project.root / ".jobs" / "jobs.log").read_text()


@pytest.mark.parametrize("more", [["--daemon"], []])
def test_it_starts_from_where_standard_descriptors_and_the_environment_are_missing(project: Project, more: list[str]):
    project.configure('logs.file = "log"')
    command = [sys.executable, "-m", "jobs_core", "start", *more]
    script = shlex.join(["exec", "env", "-i", *command]) + " <&- >&- 2>&-"
    shell = project.start_program("/bin/sh", "-c", script)
    until(lambda: " ready: " in ((project.root / "log").read_text() if (project.root / "log").exists() else ""))
    if more:
        assert shell.wait() == 0
    project.push("note", "one")
    project.until_noted("note one")
    assert project.run("stop").returncode == 0
    assert running(project.root / ".jobs") is None


def test_a_pool_whose_code_cannot_be_imported_is_not_started(project: Project):
    (project.root / "tasks.py").write_text("import nothing_of_that_name\n")
    for arguments in (["start"], ["start", "--daemon"]):
        failed = project.run(*arguments)
        assert failed.returncode == 2, failed.stdout + failed.stderr
        assert "nothing_of_that_name" in failed.stderr
    assert running(project.root / ".jobs") is None


def test_memory_is_refused_with_the_fix(project: Project):
    project.configure(backend='backend = "memory://"')
    failed = project.run("start")
    assert failed.returncode == 2
    assert "choose another backend" in failed.stderr


@pytest.mark.parametrize("command", ["stop", "exit", "reload", "quiet"])
def test_commands_report_that_nothing_is_running(project: Project, command: str):
    failed = project.run(command)
    assert failed.returncode == 3
    assert "no supervisor runs" in failed.stderr


def test_children_ignore_signals_that_a_terminal_or_service_manager_sends_to_the_group(project: Project):
    supervised = Supervised(project)
    for pid in supervised.children():
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    project.push("note", "after")
    project.until_noted("note after")
    assert supervised.stop() == 0


def test_processes_started_by_a_job_do_not_inherit_ignored_signals(project: Project):
    (project.root / "tasks.py").write_text(
        (project.root / "tasks.py").read_text()
        + "\nimport subprocess\n@job\ndef child():\n    child = subprocess.Popen(['sleep', '60'])\n"
        + "    child.terminate()\n    record('ended', child.wait())\n"
    )
    supervised = Supervised(project)
    project.push("child")
    project.until_noted("ended -15")
    supervised.stop()


def test_quiet_takes_nothing_new_until_it_is_over(project: Project):
    project.configure("pools.default.workers = 2")
    supervised = Supervised(project)
    assert project.run("quiet").returncode == 0
    supervised.until_state("quiet")
    project.push("note", "quiet")
    supervised.until(lambda board: board.backlog and board.backlog.topics["default"].ready == 1)
    assert project.run("quiet", "--off").returncode == 0
    project.until_noted("note quiet")
    supervised.stop()


def test_who_is_told_that_a_command_is_done_sees_the_new_state_at_once(project: Project):
    """Probes and `status` read the published state; it must not lag behind the answer."""
    supervised = Supervised(project)
    for workers in range(1, 6):
        assert ask(supervised.run_dir, {"do": "quiet", "on": True})["done"]
        assert supervised.board().supervisor.quiet
        assert ask(supervised.run_dir, {"do": "scale", "pool": "default", "workers": workers})["done"]
        assert supervised.board().supervisor.pools[0].wanted == workers
        assert ask(supervised.run_dir, {"do": "quiet", "on": False})["done"]
        assert not supervised.board().supervisor.quiet
    supervised.stop()


def test_a_pool_is_scaled_by_hand(project: Project):
    supervised = Supervised(project)
    assert project.run("scale", "default", "3").returncode == 0
    supervised.until_serving(3)
    assert project.run("scale", "default", "--auto").returncode == 0
    supervised.until_serving(1)
    assert project.run("scale", "nobody", "3").returncode == 2
    supervised.stop()


def test_a_run_directory_with_a_long_path_works(tmp_path: Path):
    project = Project(tmp_path / ("d" * 100) / "project")
    try:
        supervised = Supervised(project)
        assert project.run("scale", "default", "2").returncode == 0
        supervised.until_serving(2)
        supervised.stop()
    finally:
        project.close()


def test_a_supervisor_whose_run_directory_is_gone_stops(project: Project):
    supervised = Supervised(project)
    everybody = [(pid, start_ticks(pid)) for pid in supervised.children()]
    supervised.run_dir.rename(project.root / "elsewhere")
    supervised.process.until_said("was removed or replaced")
    assert supervised.process.wait() == 0
    assert all(gone(pid, ticks) for pid, ticks in everybody)
