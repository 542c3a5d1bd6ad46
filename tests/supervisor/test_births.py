"""Code that ends the importing process, children that fail to start, killed templates: each is reported, and bounded."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from jobs_core.scoreboard.writer import start_ticks
from jobs_core.supervisor.pidfile import running

from ..support.project import TASKS, Project, until
from ..support.supervised import Supervised, gone, kill

ENDINGS = {
    "sys.exit(0)": "tasks.py",
    "sys.exit('no licence')": "no licence",
    "os._exit(0)": "exit code 0",
    "os.kill(os.getpid(), signal.SIGSEGV)": "SIGSEGV",
}


@pytest.mark.parametrize(("ending", "told"), ENDINGS.items(), ids=list(ENDINGS))
def test_code_that_ends_the_process_that_imports_it_is_named_and_not_started(project: Project, ending: str, told: str):
    (project.root / "tasks.py").write_text(f"import os, signal, sys\nfrom jobs_core import job\n{ending}\n")
    for arguments in (["check"], ["start", "--daemon"]):
        failed = project.run(*arguments)
        said = failed.stdout + failed.stderr
        assert failed.returncode == 2, (arguments, said)
        assert "tasks" in said
        assert told in said
    log = (project.root / ".jobs" / "jobs.log").read_text()
    assert log.count(" died ") == 0, "one try is enough to know"
    assert running(project.root / ".jobs") is None


def test_check_completes_its_json_when_the_application_ends_its_process(project: Project):
    (project.root / "tasks.py").write_text("import os\nos._exit(0)\n")
    failed = project.run("check", "--json")
    assert failed.returncode == 2
    assert '"check": "application"' in failed.stdout or '"check":"application"' in failed.stdout


def test_workers_that_end_while_they_import_end_the_start(project: Project):
    project.configure("pools.default.preload = false")
    (project.root / "tasks.py").write_text("import os\nos._exit(0)\n")
    failed = project.run("start", "--daemon")
    assert failed.returncode == 2
    assert "exit code 0" in failed.stderr
    assert running(project.root / ".jobs") is None


@pytest.mark.parametrize("point", ["birth.between=exit:0", "birth.untold=kill", "birth.child=kill"])
def test_a_child_that_dies_at_any_moment_of_its_start_is_noticed(project: Project, point: str):
    failed = project.run("start", "--daemon", JOBS_FAILPOINT=point)
    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert running(project.root / ".jobs") is None


def test_the_creator_of_a_child_may_die_once_it_has_reported_the_child(project: Project):
    supervised = Supervised(project, JOBS_FAILPOINT="birth.told=kill")
    assert supervised.stop() == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGQUIT])
def test_stop_and_exit_finish_while_no_process_can_be_forked(project: Project, how: signal.Signals):
    supervised = Supervised(project, ready=False, JOBS_FAILPOINT="birth.between=kill")
    supervised.process.until_said("is short of a worker", times=2)
    supervised.process.signal(how)
    assert supervised.process.wait() == 0


def test_the_spare_of_a_killed_template_serves_the_loaded_code(project: Project):
    supervised = Supervised(project)
    template = _template(supervised)
    (project.root / "tasks.py").write_text("def broken(:\n")
    for _ in range(2):  # the spare of the spare, too
        until(lambda: _spares(supervised))
        kill(template)
        template = until(lambda before=template: _template(supervised) not in (0, before) and _template(supervised))
        state = supervised.board().supervisor
        assert state is not None
        assert state.generation == 1
    (worker,) = supervised.pids()
    kill(worker)
    project.push("note", "x")
    project.until_noted("note x")
    everybody = [(pid, start_ticks(pid)) for pid in supervised.children()]
    assert supervised.stop() == 0
    assert all(gone(pid, ticks) for pid, ticks in everybody)


def test_a_generation_keeps_its_number_while_its_template_is_replaced(project: Project):
    supervised = Supervised(project)
    (project.root / "tasks.py").write_text("def broken(:\n")
    until(lambda: _spares(supervised))
    for pid in [_template(supervised), *_spares(supervised)]:
        os.kill(pid, signal.SIGSTOP)  # both at once
        kill(pid)
    supervised.process.until_said("the template cannot be restarted")
    state = supervised.board().supervisor
    assert state is not None
    assert state.generation == 1
    assert "generation 1" in project.run("status").stdout
    (project.root / "tasks.py").write_text(TASKS)
    project.push("note", "x")
    project.until_noted("note x")
    supervised.stop()


def _template(supervised: Supervised) -> int:
    state = supervised.board().supervisor
    return state.template_pid if state is not None else 0


def _spares(supervised: Supervised) -> list[int]:
    found = []
    for pid in supervised.children():
        with contextlib.suppress(OSError):  # a child that has just ended
            if "template spare" in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(pid)
    return found
