"""`jobsctl run`: one job here and now, with everything that a worker puts around it, and without the queue."""

import re
import signal

import pytest

from jobs_core import State

TASKS = '''
"""Jobs that end in every way."""
import asyncio, logging, sys, time
from dataclasses import dataclass
from jobs_core import Discard, Retry, Snooze, Unique, current_job, job

@dataclass
class Order:
    number: int
    def __post_init__(self):
        if self.number > 3:
            raise ValueError("there are three")

@job
def add(a: int, b: int = 2) -> int:
    print("adding", type(a).__name__)
    logging.getLogger("shop").info("attempt %s", current_job().attempt)
    return a + b

@job
async def aadd(a: int, b: int = 2) -> int:
    await asyncio.sleep(0)
    return a + b

@job
def order(it: Order) -> Order:
    return Order(it.number + 1)

@job(acks="early", unique=True, expires=0.001, topic="elsewhere")
def options() -> str:
    return "ran"

@job
def follow(fail: bool = False):
    current_job().enqueue(add, 1)
    add.enqueue(2)
    if fail:
        raise LookupError("after the follow-up")

@job
def fail(how: str):
    if how == "exit":
        sys.exit(3)
    raise {"error": LookupError("none"), "retry": Retry("soon"), "discard": Discard("no"), "snooze": Snooze("5s")}[how]

@job
def unstorable():
    return object()

@job(timeout=0.1)
def nap(seconds: float = 30.0):
    time.sleep(seconds)

@job(timeout=0.1)
async def anap(seconds: float = 30.0):
    await asyncio.sleep(seconds)

@job
def last(*, stubborn: bool = False):
    begun = False
    try:
        while True:
            try:
                if not begun:
                    begun = True
                    print("begun", flush=True)  # here, since the interrupt may come while it prints
                time.sleep(0.01)  # it is the job under test: busy until it is interrupted
            except BaseException:
                if not stubborn:
                    raise
                print("ignored", flush=True)
    finally:
        print("cleaned up", flush=True)

@job
async def alast():
    try:
        print("begun", flush=True)
        await asyncio.sleep(30)
    finally:
        print("cleaned up", flush=True)

@job(timeout=0.1)
def stubborn():
    while True:
        try:
            time.sleep(30)
        except BaseException:
            pass
'''


@pytest.fixture(autouse=True)
def _tasks(project):
    (project.root / "tasks.py").write_text(TASKS)


def waiting(project):
    """Return the arguments of the jobs in the queue."""
    app = project.app()
    records = app.operate(lambda backend: backend.browse("default", State.READY, 10))
    return sorted(str(app.read(record).args) for record in records)


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        (("add", "1"), "3\n"),
        (("add", "1", "5"), "6\n"),
        (("add", "1", "--kw", "b=5"), "6\n"),
        (("add", "--kw", "a=1", "--kw", "b=5"), "6\n"),
        (("aadd", "1"), "3\n"),
        (("order", '{"number": 2}'), '{"number":3}\n'),
        (("options",), '"ran"\n'),
        (("nap", "0.2", "--timeout", "1m"), "null\n"),
        (("nap", "0.2", "--timeout", "0"), "null\n"),  # none
        (("unstorable",), ""),
    ],
)
def test_a_job_runs_here_and_its_result_is_printed(project, arguments, result):
    done = project.run("run", f"tasks.{arguments[0]}", *arguments[1:])
    assert (done.returncode, done.stdout) == (0, result), done.stderr
    assert ("adding int" in done.stderr) == (arguments[0] == "add")
    assert "Traceback" not in done.stderr
    assert waiting(project) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fail", "error"), ["LookupError: none", "jobs: tasks.fail failed"]),
        (("fail", "exit"), ["SystemExit: 3", "jobs: tasks.fail failed"]),
        (("fail", "retry"), ["Retry: soon", "jobs: tasks.fail failed"]),
        (("fail", "discard"), ["Discard: no", "jobs: tasks.fail failed: discarded: no"]),
        (("fail", "snooze"), ["jobs: tasks.fail asked to be run again in 5s (Snooze); nothing was enqueued"]),
        (("nap",), ["time.sleep(seconds)", "JobTimeout: ran longer than its timeout of 0.1 s", "jobs: tasks.nap failed"]),
        (("anap",), ["JobTimeout: ran longer than its timeout of 0.1 s", "jobs: tasks.anap failed"]),
        (("nap", "--timeout", "200ms"), ["JobTimeout: ran longer than its timeout of 0.2 s", "jobs: tasks.nap failed"]),
    ],
)
def test_a_job_that_fails_is_shown_with_its_traceback_and_code_1(project, arguments, says):
    done = project.run("run", f"tasks.{arguments[0]}", *arguments[1:])
    assert (done.returncode, done.stdout) == (1, "")
    position = 0
    for text in says:
        position = done.stderr.index(text, position)
    for worker_line in ("retrying", "dead letters", "is dead"):  # nothing of this happens here
        assert worker_line not in done.stderr
    assert waiting(project) == []


def test_a_job_that_ignores_its_timeout_ends_with_the_command(project):
    project.configure('[pools.default]\ntopics = ["default"]\ntimeout_grace = "100ms"')
    done = project.run("run", "tasks.stubborn")
    assert done.returncode == 1
    assert "jobs: tasks.stubborn ignored its interruption: it ends with this process" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("tasks.ad",), "no job named 'tasks.ad' is registered here"),
        (("tasks.add",), "missing 1 required positional argument"),
        (("tasks.add", "x"), "argument 'a' of tasks.add: expected int, got str"),
        (("tasks.add", "1", "--kw", "c=1"), "c"),
        (("tasks.add", "1", "--kw", "b"), "--kw: expected NAME=VALUE"),
        (("tasks.order", '{"number": 7}'), "there are three"),
        (("tasks.add", "1", "--timeout", "soon"), "--timeout"),
    ],
)
def test_a_call_that_does_not_fit_is_refused_as_push_refuses_it(project, arguments, says):
    assert says in project.here("run", *arguments, code=2)
    if "--timeout" not in arguments:
        assert says in project.here("push", *arguments, code=2)


def test_follow_ups_are_enqueued_after_a_success_and_only_then(project):
    assert project.run("run", "tasks.follow").returncode == 0
    assert waiting(project) == ["[1]", "[2]"]
    assert project.run("run", "tasks.follow", "true").returncode == 1
    assert waiting(project) == ["[1]", "[2]", "[2]"]


def test_signed_messages_are_signed_and_verified(project):
    project.configure('signing_keys = ["k1:a secret that is long enough for the tests"]')
    assert project.run("run", "tasks.add", "1").stdout.endswith("3\n")


def test_the_queue_is_not_needed(project):
    project.configure(backend='backend = "redis://127.0.0.1:1"')
    assert project.run("run", "tasks.add", "1").stdout.endswith("3\n")
    done = project.run("run", "tasks.follow", JOBS_ENQUEUE_TIMEOUT="100ms")
    assert done.returncode == 1
    assert "BackendUnavailable" in done.stderr


PLUGIN = """
from contextlib import contextmanager
from jobs_core import hookimpl

@hookimpl
def jobs_before_enqueue(message): print("before enqueue", message.job)

@hookimpl
def jobs_worker_started(worker): print("started", worker.mode, *worker.topics)

@hookimpl
def jobs_worker_stopping(worker): print("stopping")

@hookimpl
def jobs_run_context(run):
    @contextmanager
    def around():
        print("in", run.name)
        yield
        print("out")
    return around()

@hookimpl
def jobs_job_finished(run, outcome): print("finished", outcome.outcome.value)
"""


def test_a_plugin_sees_a_worker_with_one_job(project, install):
    place = install(seen=PLUGIN)
    done = project.run("run", "tasks.add", "1", PYTHONPATH=str(place))
    assert done.stdout == "3\n"
    assert [line for line in done.stderr.splitlines() if "attempt 1" not in line] == [
        "before enqueue tasks.add",
        "started sync default",
        "in tasks.add",
        "adding int",
        "out",
        "finished done",
        "stopping",
    ]


@pytest.mark.parametrize(
    ("mode", "job", "sent"),
    [
        ("sync", "last", signal.SIGINT),
        ("sync", "alast", signal.SIGTERM),
        ("threads", "last", signal.SIGTERM),
        ("async", "last", signal.SIGINT),
        ("async", "alast", signal.SIGINT),
    ],
)
def test_an_interrupt_cancels_the_job_in_every_mode(project, mode, job, sent):
    project.configure(f'[pools.default]\ntopics = ["default"]\nmode = "{mode}"')
    process = project.start("run", f"tasks.{job}")
    process.until_said("begun")
    process.signal(sent)
    assert process.wait() == 1
    assert re.search("cleaned up.*was interrupted", process.output, re.DOTALL)


def test_the_second_interrupt_ends_a_job_that_ignores_the_first(project):
    process = project.start("run", "tasks.last", "--kw", "stubborn=true")
    process.until_said("begun")
    process.signal(signal.SIGINT)
    process.until_said("ignored")
    process.signal(signal.SIGINT)
    assert process.wait() == 1


NEEDY = """
import os
from multiprocessing import get_context
from jobs_core import Unique, current_job, job

@job(limits=("stripe", "stripe:{account}"))
def limited(account): return "ran"

@job(topic="mail", key="{account}")
def keyed(account): return account

@job(unique=Unique.debounce("1h", longest="2h"))
def debounced(): return "ran"

@job(priority=9, expires="1h", unique=True)
def ordered(): return "ran"

@job(resumable=True)
def resumable():
    for step in current_job().steps(range(3)):
        pass
    return "ran"

@job
def exits(code=0): os._exit(code)

@job
def forks():
    child = get_context("fork").Process(target=os._exit, args=(3,))
    child.start()
    child.join()
    return child.exitcode
"""


@pytest.fixture
def needy(project, monkeypatch):
    """A project with jobs that need features, on a backend without any."""
    from jobs_core.backends.sqlite import SqliteBackend

    (project.root / "tasks.py").write_text(NEEDY)
    project.configure("topics.mail.fair = true\n[limits.stripe]\nconcurrency = 0\n")
    monkeypatch.setattr(SqliteBackend, "features", frozenset({"multiprocess"}))
    return project


@pytest.mark.parametrize("arguments", ["limited acme", "debounced", "ordered", "resumable", "keyed ran"])
def test_a_job_runs_here_whatever_the_backend_lacks_and_whichever_limit_is_closed(needy, arguments):
    job, *rest = arguments.split()
    assert needy.here("run", f"tasks.{job}", *rest).splitlines()[-1] == '"ran"'


@pytest.mark.parametrize(("status", "code"), [("0", 1), ("5", 5)])
def test_a_job_that_ends_the_process_is_reported_and_never_counts_as_success(needy, status, code):
    done = needy.run("run", "tasks.exits", status)
    assert (done.returncode, done.stdout) == (code, "")
    assert f"jobs: tasks.exits ended this process: it called os._exit({status})\n" in done.stderr
    assert needy.here("run", "tasks.forks").splitlines()[-1] == "3"


@pytest.mark.parametrize("command", [["run", "tasks.add"], ["push", "tasks.add"], ["worker", "--drain"]])
def test_an_import_that_ends_the_process_is_reported(project, command):
    (project.root / "tasks.py").write_text("import os\nos._exit(0)\n")
    done = project.run(*command)
    assert (done.returncode, done.stdout) == (1, "")
    assert 'jobs: modules: the import of the module "tasks" ended this process: it called os._exit(0)\n' in done.stderr
