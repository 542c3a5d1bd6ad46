"""`jobsctl why` considers everything that is known here: queue, configuration, code, and the processes on this machine."""

from __future__ import annotations

import json
import os
import time

import pytest

from jobs_core import App
from jobs_core.backends.base import Counts, JobRecord, Outcome, Outgoing, Settlement, State
from jobs_core.backends.memory import MemoryBackend
from jobs_core.config import Config, Pool
from jobs_core.errors import NotSupported
from jobs_core.ids import new_token
from jobs_core.message import encode, new_message
from jobs_core.operating.explain import explain
from jobs_core.operating.this_machine import ThisMachine
from jobs_core.scoreboard.layout import Phase
from jobs_core.scoreboard.state import PoolState
from jobs_core.unfinished import MOST_AHEAD, PAGE

from ..support.board import FakeBoard, run


@pytest.fixture
def board(project):
    made = FakeBoard(project.root / ".jobs")
    yield made
    made.close()


def reserve(project, *topics, owner="host-1"):
    """Reserve one job as a worker would; return the backend and the job."""
    backend = project.app().new_backend()
    backend.open(owner)
    return backend, backend.reserve(list(topics) or ["default"], 1, new_token())[0]


# -- what the queue says -----------------------------------------------------------------------------


def test_every_state_has_an_answer_and_the_deciding_one_comes_first(project):
    text = project.here("why", "nobody", code=1)
    assert text.startswith("- unknown job nobody")
    first = project.push("note", "x")
    assert "it is ready and next in line" in project.here("why", first)
    assert "it is ready with 1 job ahead of it" in project.here("why", project.push("note", "x"))
    assert project.here("why", project.push("note", "x", delay=60.0)).startswith("- it is scheduled for ")
    elsewhere = project.here("why", project.push("note", "x", topic="elsewhere"))
    assert elsewhere.startswith("- no pool of this configuration serves topic elsewhere")
    project.here("pause", "default")
    assert project.here("why", first).startswith("- topic default is paused: run `jobsctl resume default`")
    assert "the nearest names are tasks.note" in project.here("why", project.push("not"))
    assert "expected int, got str" in project.here("why", project.push("add", "x"))
    assert "it has expired" in project.here("why", project.push("note", "x", expires_in=0.0))
    project.here("cancel", first)
    assert project.here("why", first).startswith("- it was cancelled")


def test_a_dead_job_and_one_that_is_held(project):
    dead, held = project.push("note", "x"), project.push("note", "x")
    backend, delivery = reserve(project)
    error = json.dumps({"at": time.time(), "type": "ValueError", "message": "boom", "host": "h"}).encode()
    backend.settle([Settlement(dead, delivery.token, Outcome.DEAD, reason="failed", error=error)], new_token())
    backend.reserve(["default"], 1, new_token())
    text = project.here("why", dead)
    assert text.startswith("- it has been dead since")
    assert "ValueError: boom" in text
    assert "1 earlier attempt has ended" in text
    assert project.here("why", held).startswith("- it has been reserved by worker host-1 since ")
    project.here("cancel", held)
    assert "its cancellation was requested" in project.here("why", held)
    found = json.loads(project.here("why", held, "--json"))
    assert (found["id"], found["known"]) == (held, True)
    assert found["reasons"][0].startswith("it has been reserved")
    assert json.loads(project.here("why", "nobody", "--json", code=1))["known"] is False
    backend.close()


def failing(attempt):
    return json.dumps({"at": time.time(), "attempt": attempt, "type": "ValueError", "message": "boom", "host": "h"}).encode()


def test_attempts_before_and_after_a_retry_of_a_dead_letter_are_distinguished(project):
    job_id = project.push("note", "x")
    backend, delivery = reserve(project)

    def ends(attempt, outcome):
        nonlocal delivery
        backend.settle([Settlement(job_id, delivery.token, outcome, reason="failed", error=failing(attempt))], new_token())
        if outcome is Outcome.RETRY:
            [delivery] = backend.reserve(["default"], 1, new_token())

    ends(1, Outcome.RETRY)
    ends(2, Outcome.DEAD)
    first = project.here("why", job_id)
    assert "- 2 earlier attempts have ended\n" in first
    assert ", attempt 2: ValueError: boom" in first
    for since, told in ((1, "1 attempt since"), (2, "2 attempts since")):
        project.here("dead", "retry", job_id)
        before = 2 if since == 1 else 3
        waits = project.here("why", job_id)
        assert f"- it was retried from the dead letters: {before} attempts ended before that, none since\n" in waits
        [delivery] = backend.reserve(["default"], 1, new_token())
        for attempt in range(1, since):
            ends(attempt, Outcome.RETRY)
        ends(since, Outcome.DEAD)
        text = project.here("why", job_id)
        assert f"- it was retried from the dead letters: {before} attempts ended before that, {told}\n" in text
    assert f"the last 3 of 5 errors follow; `jobsctl show {job_id}` has them all" in text
    assert text.count("ValueError: boom") == 3
    backend.close()


def test_pools_serve_known_topics_before_it_is_reported(project):
    project.configure('[pools.default]\ntopics = ["high", "low"]')
    project.push("note", "x", topic="high")
    assert "pool default serves high (1 ready) before low" in project.here("why", project.push("note", "x", topic="low"))


# -- what this machine says --------------------------------------------------------------------------


def quiet(board):
    board.worker("h-1")
    board.write(quiet=True)


def full(board):
    board.worker("h-1").begin(run("tasks.nap", ago=190, job_id="long-one"))
    board.worker("h-2").begin(run("tasks.nap", ago=5))


def full_and_may_grow_no_more(board):
    full(board)
    board.supervisor.pools[0].wanted = board.supervisor.pools[0].max = 2
    board.write()


def full_by_hand(board):
    full(board)
    board.supervisor.pools[0].scaled = True
    board.write()


def idle(board):
    board.worker("h-1").begin(run("tasks.nap"))
    board.worker("h-2")


def crashing(board):
    board.worker("h-1")
    board.supervisor.pools[0].failures, board.supervisor.pools[0].last_error = 4, "killed by SIGSEGV"
    board.supervisor.pools[0].next_start = time.time() + 1010
    board.write()


def cannot_boot(board):
    board.supervisor.pools[0].cannot_boot, board.supervisor.pools[0].last_error = True, "ImportError: no shop"
    board.write()


def scaled_to_none(board):
    board.supervisor.pools[0].wanted, board.supervisor.pools[0].scaled = 0, True
    board.write()


def empty(board):
    board.supervisor.pools[0].wanted = 0
    board.write()


def offline(board):
    board.worker("h-1", phase=Phase.OFFLINE)
    board.worker("h-2", child="retiring")


def another_pool(board):
    board.supervisor.pools = [PoolState("mail", ["mail"], "sync", 1, 1, 1, 1)]
    board.write()


def stopping(board):
    board.write(state="stopping")


def starting(board):
    board.write(state="starting")


@pytest.mark.parametrize(
    ("situation", "says"),
    [
        (quiet, "the supervisor is quiet, its workers take no new jobs: run `jobsctl quiet --off`"),
        (
            full,
            "pool default is full: 2 workers with 2 jobs, the longest tasks.nap long-one, running for 3 m; "
            "it may grow to 8 workers",
        ),
        (full_and_may_grow_no_more, "it has as many workers as pools.default.workers allows"),
        (full_by_hand, "its size was set by hand: run `jobsctl scale default --auto`"),
        (idle, "pool default has room: 2 workers for 1 job at a time each, 1 job running"),
        (crashing, "4 workers in a row crashed soon after their start; next try in 16 m: killed by SIGSEGV"),
        (cannot_boot, "pool default: its workers cannot boot: ImportError: no shop"),
        (scaled_to_none, "pool default was scaled to 0 workers by hand: run `jobsctl scale default --auto`"),
        (empty, "pool default has no workers now, because it was idle: it starts some once jobs are waiting"),
        (offline, "no worker of pool default takes jobs now: 1 offline, 1 retiring"),
        (another_pool, "the running supervisor has no pool for topic default yet: run `jobsctl reload`"),
        (stopping, "is stopping: it takes no new jobs"),
        (starting, "is not serving yet: `jobsctl status` says what it is waiting for"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_why_reports_the_supervisors_part(project, board, situation, says):
    job_id = project.push("note", "x")
    later = project.push("note", "x", delay=60.0)
    situation(board)
    with board.held():
        assert says in project.here("why", job_id)
        assert says in project.here("why", later), "what will hold it up when it is due"


def test_a_missing_supervisor_is_reported_first(project, board):
    says = f"- no supervisor is running on this machine in {project.root / '.jobs'}: `jobsctl start` starts it\n"
    assert project.here("why", project.push("note", "x")).startswith(says)
    with board.held(pid=4242):
        assert "the supervisor, process 4242, is not serving yet" in project.here("why", project.push("note", "x"))


def test_a_held_job_is_found_in_its_worker(project, board):
    host = os.uname().nodename[:40]
    one = board.worker(f"{host}-1")
    mine = [project.push("nap", 60.0) for _ in range(2)]
    backend, delivery = reserve(project, owner=f"{host}-1")
    backend.reserve(["default"], 2, new_token())
    one.begin(run("tasks.nap", ago=190, job_id=delivery.id, timeout=60))
    waiting = next(job_id for job_id in mine if job_id != delivery.id)
    with board.held():
        runs, behind = project.here("why", delivery.id), project.here("why", waiting)
    assert len(runs.splitlines()) == 1, "that it runs there is said once"
    assert f"it has been running in process {os.getpid()} of pool default (busy) since " in runs
    assert "for 3 m; its timeout passed 2 m" in runs
    assert f"`jobsctl stack {os.getpid()}`" in runs
    assert f"the job is in flight there, behind tasks.nap {delivery.id}, running for 3 m" in behind
    backend.close()


def test_a_backend_that_does_not_answer_hides_no_job_that_runs_here(project, board):
    project.configure(backend='backend = "redis://127.0.0.1:1/0"')
    board.worker("h-1").begin(run("tasks.nap", ago=190, job_id="running-one"))
    with board.held():
        text = project.here("why", "running-one", code=69)
    assert f"- it has been running in process {os.getpid()} of pool default (busy) since " in text
    assert "127.0.0.1:1" in text


def test_an_unknown_worker_is_questioned(project):
    job_id = project.push("note", "x")
    backend, _ = reserve(project, owner=f"{os.uname().nodename[:40]}-dead")
    assert (
        "a separate `jobsctl worker`, or it is dead and its jobs return to their topics when its lease of 30s"
        in project.here("why", job_id)
    )
    backend.close()


# -- bounds ------------------------------------------------------------------------------------------


class Crowd(MemoryBackend):
    """A queue with a million ready jobs, of which the last is asked for; it keeps the pages that it had to return."""

    def begin(self, size):
        self.size, self.shown, self.counted = size, [], []

    def browse(self, topic, state, limit, offset=0):
        self.shown.append(limit)
        return [JobRecord(f"other-{n}", topic, state, b"x" * self.size) for n in range(offset, offset + limit)]

    def counts(self, topics):
        self.counted += topics
        return dict.fromkeys(topics, Counts(ready=1_000_000))


@pytest.mark.parametrize(("size", "most"), [(100, MOST_AHEAD), (1_000_000, PAGE)])
def test_a_million_that_wait_before_it_cost_a_few_pages(app, size, most):
    crowd = Crowd(app.backend_url, app.backend_options())
    crowd.begin(size)
    message = outgoing()
    crowd.push([message], new_token())
    reasons = explain(app, crowd, message.id).reasons
    assert any(reason.endswith(f"with more than {most:,} jobs ahead of it") for reason in reasons), reasons
    assert sum(crowd.shown) == most
    assert crowd.counted == [], "where jobs can be listed none are counted, which may read them all"


@pytest.mark.parametrize(("ready", "told"), [(1, "1 ready"), (PAGE - 1, "99 ready"), (PAGE + 5, "100 or more ready")])
def test_jobs_of_topics_that_are_served_before_it_are_counted_up_to_a_page(app, ready, told):
    app.config = Config(backend=app.config.backend, pools={"p": Pool(topics=["high", "none", "default"])})
    message = outgoing()
    app.operate(lambda backend: backend.push([message, *(outgoing("high") for _ in range(ready))], new_token()))
    reasons = app.operate(lambda backend: explain(app, backend, message.id)).reasons
    assert f"pool p serves high ({told}) before default" in reasons


def outgoing(topic="default"):
    message = new_message("tasks.any", topic, (), {})
    return Outgoing(message.id, topic, encode(message))


# -- without lookup ----------------------------------------------------------------------------------


class Blind(MemoryBackend):
    """A queue that can neither look jobs up nor list those that wait."""

    features = MemoryBackend.features - {"lookup", "browse", "results", "cancel"}

    def get(self, job_id):
        raise NotSupported("lookup", "Blind")

    def browse(self, topic, state, limit, offset=0):
        if state is not State.DEAD:
            raise NotSupported("browse", "Blind")
        return super().browse(topic, state, limit, offset)


@pytest.fixture
def blind(app):
    return Blind(app.backend_url, app.backend_options())


def test_without_lookup_it_reports_the_available_facts(app, blind):
    message = outgoing()
    blind.push([message, outgoing("attic")], new_token())
    blind.pause("default")
    found = explain(app, blind, message.id)
    assert found.known is None
    assert "cannot look up single jobs" in found.reasons[0]
    assert "topic default: 1 job ready" in found.reasons
    assert "topic default is paused: run `jobsctl resume default`" in found.reasons
    assert "no pool of this configuration serves topic attic: add it to the topics of a pool" in found.reasons


def test_without_lookup_dead_letters_are_found(app, blind):
    message = outgoing()
    blind.push([message], new_token())
    blind.discard([message.id], "no use")
    found = explain(app, blind, message.id)
    assert found.known
    assert found.reasons[0].startswith("it has been dead since")
    assert "no use" in found.reasons[0]


def test_without_lookup_a_job_that_runs_here_is_found(app, blind, tmp_path):
    board = FakeBoard(tmp_path / ".jobs")
    board.worker("h-1").begin(run("tasks.nap", ago=190, job_id="running-one"))
    here = ThisMachine(App(Config(backend=app.backend_url, base_dir=tmp_path)))
    with board.held():
        found = explain(app, blind, "running-one", here)
    board.close()
    assert found.known
    assert found.reasons[0].startswith(f"it has been running in process {os.getpid()} of pool default (busy) since ")
