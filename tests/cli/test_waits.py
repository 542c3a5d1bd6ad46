"""No command of ours waits in silence."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs_core.backends.sqlite import SqliteBackend
from jobs_core.cli import in_child, output, waiting
from jobs_core.cli.main import OURS
from jobs_core.plugins import Plugins
from jobs_core.scoreboard.state import Backlog, PoolState, SupervisorState
from jobs_core.scoreboard.view import waits_for
from jobs_core.supervisor.pidfile import running
from jobs_core.webhooks.sending import Reply

from ..support.project import Process, Project, until

REPOSITORY = Path(__file__).parents[2]

SLOW = 0.3
"""Seconds that another process takes for what a command waits for; the first word comes after a thirtieth of them."""


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Bring the first word forward; the event is set when one was printed."""
    said = threading.Event()
    echo = output.echo

    def told(text: str = "", **more: bool) -> None:
        echo(text, **more)
        if text.startswith("jobs: waiting for"):
            said.set()

    monkeypatch.setattr(output, "echo", told)
    monkeypatch.setattr(waiting, "FIRST", SLOW / 30)
    monkeypatch.setattr(waiting, "AGAIN", SLOW / 30)
    return said


@pytest.fixture
def slow_backend(monkeypatch: pytest.MonkeyPatch, hurried) -> None:
    """A backend that does not open before a word was printed; in the child of `check` it takes its usual time."""
    opened, process = SqliteBackend.open, os.getpid()

    def slowly(self, owner):
        hurried.clear()  # a word may have been printed during an earlier wait
        hurried.wait(SLOW if os.getpid() != process else 30)
        return opened(self, owner)

    monkeypatch.setattr(SqliteBackend, "open", slowly)


BACKEND = {
    "list default": 0, "show 0198": 1, "follow 0198": 1, "why 0198": 1, "result 0198": 1, "cancel 0198": 1, "topics": 0,
    "pause default": 0, "resume default": 0, "purge default --yes": 0, "dead list": 0, "dead groups": 0,
    "dead actions": 0, "dead show 0198": 1,
    "dead retry 0198": 1, "dead drop 0198 --yes": 1, "setup": 0, "push tasks.note": 0, "check": 0, "limits": 0, "flows": 0,
    "stats": 0,
    "machines": 0, "status --all": 3, "flow show 0198": 1, "flow cancel 0198": 1, "flow retry 0198": 1,
}  # fmt: skip
APPLICATION = {"push tasks.note": 0, "run tasks.note": None, "check": 0, "schedule": 0, "why 0198": 1, "worker --drain": 0}
PLUGINS = {"plugins": None, "--help": 0, "topics": 0}
SUPERVISOR = {"quiet": 0, "scale default 2": 0, "reload": 0, "exit": 0, "stop": 0}
TESTED_ELSEWHERE = {"outbox", "migrate"}
"""`outbox` needs PostgreSQL: plugins/postgres_backend/tests/test_outbox.py; `migrate` needs Celery: test_migrate.py."""
TESTED_BELOW = {"start", "restart", "contract", "alert", "webhooks", "payloads"}
NEVER_WAIT = {"help", "init", "completion", "systemd", "top", "stack", "new-plugin"}
"""Commands that read files of this machine and ask no process; `top` is a page that changes."""
SPEAK_ANYWAY = {"demo", "diagnose"}
"""Commands that report each step."""


def test_every_command_is_in_one_of_these_tables():
    named = {line.split()[0] for table in (BACKEND, APPLICATION, PLUGINS, SUPERVISOR) for line in table}
    assert named - {"--help"} | TESTED_BELOW | TESTED_ELSEWHERE | NEVER_WAIT | SPEAK_ANYWAY == set(OURS)


@pytest.mark.parametrize("command", BACKEND)
def test_a_slow_backend_is_reported(project: Project, hurried, slow_backend, command: str):
    text = project.here(*command.split(), code=BACKEND[command])
    assert "jobs: waiting for sqlite:///queue.db to answer (" in text


def test_a_slow_backend_is_reported_while_payloads_are_cleaned(project: Project, hurried, slow_backend):
    text = project.here("payloads", "clean", JOBS_PAYLOADS__URL=f"file://{project.root}/payloads")
    assert "jobs: waiting for sqlite:///queue.db to answer (" in text


@pytest.mark.parametrize("command", APPLICATION)
def test_a_slow_import_of_an_application_is_reported(project: Project, hurried, command: str):
    path = project.root / "tasks.py"
    path.write_text(path.read_text() + f"\ntime.sleep({SLOW})\n")
    text = project.here(*command.split(), code=APPLICATION[command])
    assert "waiting for the application to be imported" in text or "waiting for module tasks to be imported" in text


def test_a_slow_import_is_reported_with_its_current_line(project: Project, hurried):
    path = project.root / "tasks.py"
    path.write_text(path.read_text() + f"\ntime.sleep({SLOW})\n")
    line = len(path.read_text().splitlines())
    assert f", now at {path}:{line}  time.sleep({SLOW})" in project.here("schedule")


HANGING = {
    "a sleep": ("import time\ntime.sleep(1000)\n", ":2  time.sleep(1000)"),
    "a lock": ("import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()\n", ":4  lock.acquire()"),
    "a library": ("import threading\nthreading.Event().wait()\n", ":2  threading.Event().wait()"),
    "a loop": ("while True:\n    pass\n", ":"),
    "another module": ("import slow\n", "slow.py:2  time.sleep(1000)"),
    "code that holds the interpreter": ("import ctypes\nctypes.PyDLL(None).sleep(1000)\n", "it holds the interpreter"),
}


@pytest.mark.parametrize(("code", "where"), HANGING.values(), ids=HANGING)
def test_a_hanging_import_is_abandoned_and_reported_with_its_line(project: Project, monkeypatch, code: str, where: str):
    monkeypatch.setattr(in_child, "LOOK", 0.05)
    (project.root / "slow.py").write_text("import time\ntime.sleep(1000)\n")
    (project.root / "tasks.py").write_text(code)
    text = project.here("check", "--import-timeout", "1.5", code=2)  # it has to begin in it
    assert 'the module "tasks" is still not imported after 1.5 s' in text
    assert where in text
    assert "--import-timeout" in text


@pytest.mark.parametrize("command", PLUGINS)
def test_a_slow_import_of_plugins_is_reported(project: Project, hurried, monkeypatch, command: str):
    discover, process = Plugins.discover, os.getpid()

    def slowly(*words):
        if os.getpid() == process:
            hurried.clear()
            hurried.wait(30)
        return discover(*words)

    monkeypatch.setattr(Plugins, "discover", slowly)
    monkeypatch.setattr("jobs_core.cli.main._added", None)
    code = PLUGINS[command]
    text = project.here(*command.split(), code=code) if code is not None else project.here(*command.split())
    assert "waiting for the plugins to be imported" in text


@pytest.mark.parametrize("command", SUPERVISOR)
def test_a_supervisor_that_does_not_answer_is_reported(project: Project, hurried, command: str):
    process = project.start_python("-m", "tests.support.lone", PYTHONPATH=str(REPOSITORY))
    process.until_said("ready")
    process.signal(signal.SIGSTOP)
    waker = threading.Thread(target=lambda: hurried.wait(30) and process.signal(signal.SIGCONT))
    waker.start()
    text = project.here(*command.split())
    waker.join()
    assert "jobs: waiting for " in text
    if command in ("stop", "exit"):
        assert f"waiting for process {process.pid}, which is stopped (SIGSTOP) and receives nothing" in text
    elif command != "reload":
        assert f"waiting for the supervisor, process {process.pid}, to answer" in text


def test_a_supervisor_that_never_answers_ends_the_command_with_a_sentence(project: Project, monkeypatch):
    from jobs_core.cli import control as commands
    from jobs_core.supervisor import control

    monkeypatch.setattr(commands, "ask", lambda run_dir, message: control.ask(run_dir, message, timeout=0.1))
    process = project.start_python("-m", "tests.support.lone", PYTHONPATH=str(REPOSITORY))
    process.until_said("ready")
    process.signal(signal.SIGSTOP)
    assert "has not answered within 0.1 s: its process is stopped" in project.here("quiet", code=1)


def test_a_measurement_and_an_alert_are_waited_for_with_a_word(project: Project, hurried, monkeypatch):
    monkeypatch.setattr("jobs_core.testing.contract.bench.measure", lambda url, large: hurried.wait(30) and [])
    text = project.here("contract", "memory://", "--bench")
    assert "waiting for the measurements to end" in text
    hurried.clear()
    project.configure('[alerts.channels]\nwebhook = { url = "http://127.0.0.1:1/" }')
    monkeypatch.setattr("jobs_core.cli.alert.channels", lambda config, plugins: {"webhook": Slow(hurried)})
    assert "waiting for channel webhook to take the alert" in project.here("alert", "test")


def test_a_slow_receiver_of_webhooks_is_waited_for_with_a_word(project: Project, hurried, monkeypatch):
    secret = "whsec_" + "A" * 32
    project.configure(f'[webhooks.crm]\nurl = "http://127.0.0.1:1/"\nsecret = "{secret}"')

    def post(*request: object) -> Reply:
        hurried.clear()  # the import of the plugins may have been waited for
        hurried.wait(30)
        return Reply(200, None, "")

    monkeypatch.setattr("jobs_core.webhooks.job.post", post)
    assert "waiting for webhook crm to take the event" in project.here("webhooks", "test")


class Slow:
    def __init__(self, said: threading.Event) -> None:
        self.said = said

    def send(self, *words: object) -> None:
        self.said.clear()
        self.said.wait(30)


def test_the_word_comes_again_while_it_lasts(capsys, monkeypatch):
    monkeypatch.setattr(waiting, "FIRST", 0.02)
    monkeypatch.setattr(waiting, "AGAIN", 0.02)
    seen = threading.Event()
    words = iter(["one", "two", "three"])

    def what() -> str:
        word = next(words, "more")
        if word == "three":
            seen.set()
        return word

    with waiting.waiting(what):
        assert seen.wait(30)
    said = capsys.readouterr().err
    assert said.index("waiting for one") < said.index("waiting for two")


def test_quick_commands_print_nothing_of_it(project: Project):
    assert "waiting" not in project.here("topics")


def test_a_command_without_its_backend_names_one_that_works_without_it(project: Project):
    project.configure(backend='backend = "redis://127.0.0.1:1/0"')  # no process listens there
    assert "jobs: `jobsctl status` works without the backend, and shows the workers" in project.here("topics", code=69)
    assert "works without the backend" not in project.here("status", code=None)


# -- start --daemon --------------------------------------------------------------------------------


@pytest.fixture
def deaf(project: Project) -> Callable[..., Process]:
    project.configure(backend='backend = "redis://127.0.0.1:1/0"')  # no process listens there
    return lambda *more: project.start("start", "--daemon", *more)


def test_a_start_without_its_broker_returns_in_time_and_keeps_trying(project: Project, deaf):
    process = deaf("--wait", "3s")
    process.until_said("waiting for ")
    assert process.wait() == 69
    assert "It is waiting for " in process.output  # what that is depends on how far it has come
    assert "It keeps trying" in process.output
    until(lambda: "! not serving yet: waiting for the backend redis://127.0.0.1:1/0 to answer" in project.here("status"))
    assert "jobs: stopped" in project.here("exit")


@pytest.mark.parametrize("command", ["start --daemon", "restart"])
def test_a_start_that_gives_up_leaves_nothing_behind(project: Project, deaf, command: str):
    process = project.start(*command.split(), "--wait", "1", "--give-up")
    assert process.wait() == 69
    assert "no workers were serving within 1s, so it was stopped; it was waiting for " in process.output
    assert running(project.root / ".jobs") is None


def supervisor(**facts) -> SupervisorState:
    return SupervisorState(1, "h", "0", 0.0, facts.pop("generation", 1), "starting", backend="redis://h", **facts)


POOL = PoolState("mail", ["mail"], "sync", 1, 2, 2, 2)


@pytest.mark.parametrize(
    ("it", "backlog", "says"),
    [
        (None, None, "the supervisor to start"),
        (supervisor(generation=0), None, "the application to be imported"),
        (supervisor(helper_errors={"housekeeper": "no room"}), None, "the housekeeper to start: no room"),
        (supervisor(housekeeper_pid=7), None, "the backend redis://h to answer"),
        (supervisor(housekeeper_pid=7), Backlog(0.0, 6, error="of another"), "the backend redis://h to answer"),
        (supervisor(housekeeper_pid=7), Backlog(0.0, 7, error="refused"), "the backend redis://h to answer: refused"),
        (
            supervisor(housekeeper_pid=7, pools=[PoolState("mail", [], "sync", 1, 1, 1, 1, failures=2, last_error="boom")]),
            Backlog(0.0, 7, True),
            "pool mail, whose workers exit soon after their start: boom",
        ),
        (supervisor(housekeeper_pid=7, pools=[POOL]), Backlog(0.0, 7, True), "workers to serve: 0 of 2 do"),
    ],
)
def test_a_start_reports_the_first_missing_condition(it, backlog, says: str):
    assert waits_for(it, backlog) == says
