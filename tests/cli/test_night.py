"""An operator's commands work at night despite a broken configuration or plugin, or the wrong user or machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs_core import ConfigError, config_sources, config_text
from jobs_core.cli import bounds, in_child
from jobs_core.scoreboard.state import Board, ChildState, PoolState, SupervisorState
from jobs_core.supervisor import control, pidfile, search

from ..support.board import FakeBoard
from ..support.project import Process, Project

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def lone(project: Project) -> Callable[..., Process]:
    """Start a process that looks like a supervisor of the project with its present configuration."""

    def start(**environment: str) -> Process:
        process = project.start_python("-m", "tests.support.lone", PYTHONPATH=str(REPOSITORY), **environment)
        process.until_said("ready")
        return process

    return start


# -- a broken configuration ------------------------------------------------------------------------


def unreadable(project: Project) -> None:
    path = project.root / "jobs.toml"
    path.unlink()
    path.symlink_to(project.root / "jobs.toml")  # a circle: not even root can read it


BROKEN: dict[str, tuple[Callable[[Project], object], str]] = {
    "a syntax error": (lambda project: (project.root / "jobs.toml").write_text("x = \n"), "jobs.toml: not valid TOML"),
    "an unknown key": (lambda project: project.configure("leese = 3"), 'unknown key; did you mean "lease"?'),
    "a wrong value": (lambda project: project.configure('lease = "soon"'), "jobs.toml: lease: expected a duration"),
    "no text": (lambda project: (project.root / "jobs.toml").write_bytes(b"\xff\xfe"), "jobs.toml: cannot be read"),
    "no such file": (lambda project: (project.root / "jobs.toml").unlink(), "jobs.toml: no such file"),
    "a file that cannot be opened": (unreadable, "jobs.toml: no such file"),
    "a directory": (
        lambda project: ((project.root / "jobs.toml").unlink(), (project.root / "jobs.toml").mkdir()),
        "jobs.toml: no such file",
    ),
    "another run directory": (lambda project: project.configure('run_dir = "elsewhere"'), "run_dir is now"),
    "a broken pyproject.toml": (
        lambda project: (
            (project.root / "jobs.toml").unlink(),
            (project.root / "pyproject.toml").write_text("[tool.jobs\n"),
        ),
        "pyproject.toml: not valid TOML",
    ),
}
COMMANDS = {
    "status": "jobs 0.1.0 is serving: ",
    "top --once --interval 0.05": "jobs 0.1.0 is serving: ",
    "quiet": "jobs: quiet",
    "quiet --off": "take jobs again",
    "scale default 2": "is set to 2 workers",
}


@pytest.mark.parametrize(
    ("case", "run_dir"), [*((case, "deep/run") for case in BROKEN), ("a syntax error", ".jobs"), ("no such file", ".jobs")]
)
def test_with_a_broken_configuration_running_processes_can_be_inspected_and_stopped(
    project: Project, lone, case: str, run_dir: str
):
    project.configure(f'run_dir = "{run_dir}"')
    process = lone()
    hurt, says = BROKEN[case]
    hurt(project)
    for command, answer in COMMANDS.items():
        text = project.here(*command.split())
        assert says in text, command
        assert answer in text, command
        assert "keeps running " in text
    assert says in project.here("status", "--json")
    assert "of pool default" in project.here("stack", str(process.pid))
    if case != "another run directory":
        for refused in ("restart", "reload"):
            text = project.here(refused, code=2)
            assert says in text
            assert f"{refused} refused: everything keeps running as it is" in text
        assert process.alive()
    assert "jobs: stopped" in project.here("stop" if run_dir == ".jobs" else "exit")
    assert process.wait() == 0


@pytest.mark.parametrize("named", ["-c", "JOBS_CONFIG"])
def test_a_deleted_configuration_file_still_leads_to_its_supervisor(project: Project, lone, named: str, tmp_path: Path):
    (project.root / "night.toml").write_text('run_dir = "night"\n')
    process = lone(JOBS_CONFIG="night.toml")
    (project.root / "night.toml").unlink()
    words = ("-c", "night.toml") if named == "-c" else ()
    text = project.here(*words, "status", **({} if words else {"JOBS_CONFIG": "night.toml"}))
    assert "night.toml: no such file" in text
    assert f"process {process.pid} on " in text
    project.here(*words, "stop", **({} if words else {"JOBS_CONFIG": "night.toml"}))


def test_a_wrong_variable_hides_nothing_either(project: Project, lone):
    lone()
    text = project.here("status", JOBS_LEASE="soon")
    assert "JOBS_LEASE: expected a duration" in text
    assert "jobs 0.1.0 is serving: " in text
    project.here("stop", JOBS_LEASE="soon")


def test_a_plugin_that_is_no_longer_imported_hides_nothing(project: Project, lone):
    project.configure('framework = "gone"', backend='backend = "gone://host"')
    process = lone()
    for command, answer in COMMANDS.items():
        assert answer in project.here(*command.split())
    assert "there is no" in project.here("restart", code=2)
    assert process.alive()
    assert "jobs: stopped" in project.here("stop")


BROKEN_LINES = {  # the text of line 3, its error, the place; and the fix
    "backend = redis://:secret@host": ("not valid TOML: Invalid value", "needs quotes"),
    "lease = 30s": ("not valid TOML", "needs quotes"),
    "lease = 30 s": ("not valid TOML", "needs quotes"),
    "lease =": ("not valid TOML: Invalid value", "the value is missing"),
    "lease: 30": ("not valid TOML: Expected '='", "separated by =, not by a colon"),
    "preload = True": ("not valid TOML: Invalid value", "write true or false, in lower case"),
    "backend = None": ("not valid TOML: Invalid value", "leave the key out to use its default"),
    "<<<<<<< HEAD": ("not valid TOML: Invalid statement", "keep one of the two sides"),
    "[pools.mail": ("not valid TOML", "[pools.default]"),
    'prefix = "C:\\jobs"': ("not valid TOML: Unescaped", "write a backslash twice"),
    'prefix = "jobs': ("not valid TOML", "the string is not closed"),
    'modules = ["a" "b"]': ("not valid TOML: Unclosed array", "with commas"),
    'lease = "soon"': ("lease: expected a duration", 'such as "30s"'),
    "leese = 30": ("leese: unknown key", 'did you mean "lease"?'),
    "pools.mail.mode = 'zync'": ("pools.mail.mode: expected one of", "sync, threads, async"),
    "broker_url = 'redis://'": ("broker_url: unknown key", 'backend = "redis://'),
    '[topics."a.b"]\nretires = 1': ("topics.a.b.retires: unknown key", 'did you mean "retries"?'),
    "[schedule.night]": ("schedule.night: job is missing", "set it"),
}


@pytest.mark.parametrize("name", ["jobs.toml", "pyproject.toml"])
@pytest.mark.parametrize("line", BROKEN_LINES)
def test_a_broken_file_is_reported_with_its_line_and_the_fix(tmp_path: Path, line: str, name: str):
    says, fix = BROKEN_LINES[line]
    if name == "pyproject.toml":
        line = (
            line
            if line.startswith("<")
            else line.replace("[", "[tool.jobs.", 1)
            if line.startswith("[")
            else f"tool.jobs.{line}"
        )
        first = ""
    else:
        first = "# it's ours"
    (tmp_path / name).write_text(f'{first}\n""" = 1\n{line}\n'.replace('""" = 1', "# jobs"))
    with pytest.raises(ConfigError) as raised:
        config_sources.load(tmp_path / name, environ={})
    text = str(raised.value)
    assert says in text
    assert fix in text
    assert "secret" not in text
    number = 4 if "\n" in line else 3
    assert re.search(rf"\(at line {number}(, column \d+)?\)", text), text


def test_a_repeated_key_is_reported_with_both_lines(tmp_path: Path):
    (tmp_path / "jobs.toml").write_text('lease = 1\n[pools.a]\nworkers = 1\nmode = """\nlease = 1\n"""\nworkers = 2\n')
    with pytest.raises(ConfigError, match=r"pools\.a\.workers is set on line 3 and again on line 7: keep one"):
        config_sources.load(tmp_path / "jobs.toml", environ={})


def test_an_unclosed_list_is_reported_as_such(tmp_path: Path):
    (tmp_path / "jobs.toml").write_text('modules = [\n"a",\n"b"\n')
    with pytest.raises(ConfigError, match="Unclosed array.*: an opening quote or bracket is never closed"):
        config_sources.load(tmp_path / "jobs.toml", environ={})


@given(st.text(max_size=80))
@settings(max_examples=60)
def test_any_file_content_is_read_without_harm(text: str):
    assert config_text.advice(text, "Invalid value (at line 1, column 1)")
    assert config_text.advice(text, "Cannot overwrite a value (at end of document)")
    assert config_text.line_of(text, "pools.a") is None or "pools" in text


@pytest.mark.parametrize("command", ["dead list", "why x", "push tasks.note", "topics", "list default", "worker", "start"])
def test_a_command_that_a_broken_file_keeps_from_working_says_so(project: Project, command: str):
    project.configure('lease = "soon"')
    said = project.here(*command.split(), code=2).splitlines()
    assert said[0].startswith("jobs: jobs.toml: lease: expected a duration")
    assert said[0].endswith("(at line 3)")
    assert said[1:] == [
        "jobs: until this is fixed, only commands for a running supervisor work (status, top, stack, quiet, scale, stop, "
        "exit); `jobsctl check` checks it again"
    ]


@pytest.mark.parametrize("command", ["status", "top --once", "stop", "exit", "quiet", "scale default 2", "restart", "reload"])
def test_with_a_broken_configuration_and_nothing_running_the_error_is_the_answer(project: Project, command: str):
    (project.root / "jobs.toml").write_text("x = \n")
    assert "jobs.toml: not valid TOML" in project.here(*command.split(), code=2)


def test_a_supervisor_of_a_directory_above_is_not_taken_for_that_of_a_good_configuration_here(project: Project, lone):
    lone()
    below = project.root / "below"
    below.mkdir()
    (below / "jobs.toml").write_text("")
    project.root = below
    assert "not running in" in project.here("status", code=3)
    assert "no supervisor runs" in project.here("stop", code=3)
    project.root = below.parent
    project.here("exit")


def test_a_restart_that_could_not_start_again_stops_nothing(project: Project, lone):
    process = lone()
    project.configure(backend='backend = "memory://"')
    text = project.here("restart", code=2)
    assert "choose another backend" in text
    assert "restart refused: everything keeps running as it is" in text
    assert process.alive()
    project.here("exit")


UNLOADABLE = {
    "an import that fails": ("import nope\n", "No module named 'nope'"),
    "a slip in an option": ("from jobs_core import job\n@job(topics='x')\ndef f(): ...\n", "did you mean topic?"),
    "an import that ends its process": ("import os\nos._exit(3)\n", 'while it imported the module "tasks" (exit code 3)'),
    "a tick that is none": ("from jobs_core import job\n@job(cron='61 * * * *')\ndef f(): ...\n", "bad minute"),
    "a parameter that no message fills": (
        "import socket\nfrom jobs_core import job\n@job\ndef f(a: socket.socket): ...\n",
        "a",
    ),
}


@pytest.mark.parametrize(("code", "says"), UNLOADABLE.values(), ids=UNLOADABLE)
def test_a_restart_with_code_that_cannot_be_loaded_stops_nothing(project: Project, lone, code: str, says: str):
    process = lone()
    (project.root / "tasks.py").write_text(code)
    text = project.here("restart", code=2)
    assert says in text
    assert "restart refused: everything keeps running as it is" in text
    assert process.alive()
    project.here("exit")


def test_a_restart_with_code_whose_import_hangs_stops_nothing(project: Project, lone, monkeypatch):
    process = lone()
    monkeypatch.setattr(in_child, "LOOK", 0.05)
    monkeypatch.setattr(in_child, "IMPORT_TIMEOUT", 3.0)  # the import itself has to begin in it
    (project.root / "tasks.py").write_text("import time\ntime.sleep(1000)\n")
    text = project.here("restart", code=2)
    assert 'the module "tasks" is still not imported after 3 s' in text
    assert "tasks.py:2  time.sleep(1000)" in text
    assert process.alive()
    project.here("exit")


# -- another user's ----------------------------------------------------------------------------------


@pytest.fixture
def of_root(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBoard]:
    """Make a run directory that belongs to root, as another user meets it: nothing in it can be opened."""
    board = FakeBoard(project.root / ".jobs")
    opened = os.open

    def refuse(path, *rest, **more):
        if str(path).endswith("supervisor.pid"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(pidfile.pwd, "getpwuid", lambda uid: os.stat_result and type("Entry", (), {"pw_name": "root"}))
    yield board
    board.close()


EVERYONE = ["status", "top --once", "stop", "exit", "quiet", "scale default 2", "reload", "restart", "start", "stack 1"]


@pytest.mark.parametrize("command", EVERYONE)
def test_another_users_supervisor_is_reported_with_its_user(project: Project, of_root, monkeypatch, command: str):
    monkeypatch.setattr(search, "process_of", lambda run_dir, user: 4242)
    text = project.here(*command.split(), code=1)
    assert "a supervisor is running as process 4242 and belongs to root" in text
    assert "run this as root" in text
    assert "not running" not in text


@pytest.mark.parametrize("command", EVERYONE)
def test_facts_hidden_by_another_user_are_named_as_unknown(project: Project, of_root, monkeypatch, command: str):
    monkeypatch.setattr(search, "process_of", lambda run_dir, user: None)
    assert "belongs to root, so it is not known whether a supervisor is running there" in project.here(*command.split(), code=1)


def test_a_script_can_read_the_owner(project: Project, of_root, monkeypatch):
    monkeypatch.setattr(search, "process_of", lambda run_dir, user: 4242)
    text = project.here("status", "--json", code=1)
    assert json.loads(text[: text.index("}") + 1]) == {"running": True, "pid": 4242, "user": "root"}


def test_a_process_of_another_user_is_found_by_its_ps_line(project: Project, lone):
    process = lone()
    assert search.process_of(project.root / ".jobs", os.geteuid()) == process.pid
    assert search.process_of(project.root / ".jobs", os.geteuid() + 1) is None
    assert search.process_of(project.root / "other", os.geteuid()) is None
    project.here("exit")


# -- another PID namespace -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["stop", "exit", "restart"])
def test_from_another_pid_namespace_stop_and_exit_report_it_and_do_nothing(project: Project, lone, monkeypatch, command: str):
    process = lone()
    monkeypatch.setattr(control, "_peer", lambda connection: (0, os.geteuid()))  # as the kernel reports it there
    text = project.here(command, code=1)
    assert f"is running in another PID namespace (such as a container), as process {process.pid} there" in text
    assert "nothing was done" in text
    assert process.alive()
    assert "another PID namespace" in project.here("stack", "1", code=1)
    monkeypatch.undo()
    project.here("exit")


def test_the_process_that_is_ended_is_the_one_that_listens_whatever_number_the_file_has(project: Project, lone):
    process = lone()
    (project.root / ".jobs/supervisor.pid").write_text(f"{os.getpid()}\n")  # as seen inside its namespace
    assert control.number_here(project.root / ".jobs", os.getpid()) == process.pid
    assert "jobs: stopped" in project.here("stop")


def test_one_that_does_not_listen_yet_is_known_by_the_file_that_it_holds(project: Project):
    board = FakeBoard(project.root / ".jobs")
    with board.held():
        assert control.number_here(board.run_dir, os.getpid()) == os.getpid()
        with pytest.raises(control.InAnotherNamespace):
            control.number_here(board.run_dir, os.getppid())
    board.close()


def in_a_namespace_of_its_own(project: Project, *command: str) -> subprocess.CompletedProcess[str] | None:
    """Run the command as process 1, or nearly, of a new PID namespace; return None where user or kernel do not permit one."""
    begin = ["unshare", "--pid", "--fork", "--mount-proc"]
    for prefix in (begin, [begin[0], "--user", "--map-root-user", *begin[1:]]):
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            return subprocess.run(
                [*prefix, sys.executable, "-m", "jobs_core", *command],
                cwd=project.root, env=project.environment(), capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
    return None


def test_in_a_real_namespace_it_is_the_same(project: Project, lone):
    process = lone()
    done = in_a_namespace_of_its_own(project, "stop")
    if done is not None:  # else the same decision was tested above, on the kernel's report there
        assert done.returncode == 1, done.stdout + done.stderr
        assert "another PID namespace" in done.stderr
    assert process.alive()
    project.here("exit")


# -- scale -----------------------------------------------------------------------------------------


def board_of(workers: int, each: int, most: int = 1) -> Board:
    children = [ChildState(f"w{n}", n, "mail", 1, "serving", 0.0, "", each) for n in range(workers)]
    pools = [PoolState("mail", ["mail"], "sync", 1, 1, most, workers)]
    return Board(SupervisorState(1, "h", "0", 0.0, 1, "serving", pools=pools, workers=children))


@pytest.mark.parametrize(
    ("cores", "free", "each", "most"),
    [
        (2, 10**12, 40_000_000, 64),
        (64, 10**9, 100_000_000, 12),
        (64, 10**9, 0, 22),  # none measured
        (1, 0, 40_000_000, 2),  # those that exist
    ],
)
def test_so_many_workers_as_cores_and_memory_bear_are_not_doubted(monkeypatch, cores: int, free: int, each: int, most: int):
    monkeypatch.setattr(bounds, "_cores", lambda: cores)
    monkeypatch.setattr(bounds, "free_memory", lambda: free)
    board = board_of(2, each)
    assert bounds.too_many(board, "mail", most) == ""
    assert f"more than the {most:,} that this" in bounds.too_many(board, "mail", most + 1)


def test_a_name_that_the_configuration_allows_is_not_questioned(monkeypatch):
    monkeypatch.setattr(bounds, "free_memory", lambda: 0)
    assert bounds.too_many(board_of(2, 10**9, most=500), "mail", 500) == ""
    assert bounds.too_many(board_of(2, 10**9, most=500), "mail", 501) != ""


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 10**12),
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   2000 kB\n"}, 2_048_000),
        ({"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/memory.current": "5", "sys/fs/cgroup/memory.stat": ""}, 10**12),
        (
            {
                "proc/meminfo": "MemAvailable:   2000 kB\n",
                "sys/fs/cgroup/memory.max": "1000",
                "sys/fs/cgroup/memory.current": "900",
                "sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 300\n",
            },
            400,
        ),
        (
            {
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "1000",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1200",
                "sys/fs/cgroup/memory/memory.stat": "",
            },
            0,
        ),
    ],
)
def test_free_memory_is_that_of_machine_and_control_group(tmp_path: Path, files: dict[str, str], free: int):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert bounds.free_memory(tmp_path) == free


def test_an_absurd_number_of_workers_is_refused_and_one_that_is_too_large_has_to_be_forced(project: Project, lone, monkeypatch):
    monkeypatch.setattr(bounds, "_cores", lambda: 2)
    process = lone()
    for force in ((), ("--force",)):
        assert "a pool has at most 10,000" in project.here("scale", "default", "300000", *force, code=2)
    text = project.here("scale", "default", "9000", code=2)
    assert "9,000 workers in pool default are more than the " in text
    assert " that this machine is likely to bear: it has " in text
    assert "Pass --force" in text
    assert process.lines == ["ready"]
    assert "is set to 9000 workers" in project.here("scale", "default", "9000", "--force").replace(",", "")
    project.here("exit")
