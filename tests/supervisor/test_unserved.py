"""A topic without a pool is reported wherever an operator looks: by `start`, `reload`, the log, `status`, `check`, metrics."""

from __future__ import annotations

import json
import logging

import pytest

from jobs_core import App, job
from jobs_core.boundary import told
from jobs_core.config import Config, Pool, ScheduleEntry, Topic
from jobs_core.errors import BackendError, BackendUnavailable, ConfigError
from jobs_core.ids import new_token
from jobs_core.scoreboard import state
from jobs_core.scoreboard.state import Backlog, TopicState
from jobs_core.supervisor.housekeeper.housekeeper import Housekeeper

from ..support.board import FakeBoard
from ..support.project import TASKS, Project, without_waits


class Silent:
    """A channel to a supervisor that does not exist."""

    def send(self, message):
        return True


@pytest.fixture
def keeper_of(tmp_path, registry):
    """A housekeeper of an application with this configuration, in this process."""
    made = []

    def keeper_of(**settings):
        app = App(Config(backend=f"memory://{new_token()}", **settings), registry=registry)
        keeper = Housekeeper(app, Silent(), tmp_path)
        keeper._backend.open(None)
        keeper._open = True
        made.append(keeper)
        return app, keeper

    yield keeper_of
    for keeper in made:
        keeper._backend.close()
        keeper._app.close()


def look(keeper, caplog):
    """Let it count; return the backlog that it writes, and its warnings."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "jobs"):
        keeper._count()
    found = state.read(keeper._run_dir / state.BACKLOG, Backlog)
    return found, [record.event for record in caplog.records if hasattr(record, "event")]


def push(app, topic, **options):
    from jobs_core.message import new_message

    app._producer.push([app.outgoing(new_message("tasks.any", topic, (), {}, **options))], 5.0)


@pytest.mark.parametrize(
    ("settings", "pushed", "senders", "told"),
    [
        ({}, ["default"], {"default": []}, {}),
        ({}, ["mail"], {}, {"mail": (1, [])}),
        ({}, ["mail", "mail"], {"mail": ["tasks.send"]}, {"mail": (2, ["tasks.send"])}),
        ({}, [], {"mail": ["tasks.send"]}, {"mail": (0, ["tasks.send"])}),
        ({"topics": {"mail": Topic(serve=False)}}, ["mail"], {"mail": ["tasks.send"]}, {}),
        ({"topics": {"mail": Topic(retries=1)}}, ["mail"], {}, {"mail": (1, [])}),
        ({"topics": {"mail": Topic(retries=1)}}, [], {}, {}),
        ({"pools": {"a": Pool(topics=["mail"])}}, ["mail"], {None: ["tasks.send"]}, {"default": (0, ["tasks.send"])}),
        ({"schedule": {"daily": ScheduleEntry(job="tasks.send", every=3600, topic="mail")}}, [], {None: ["tasks.send"]},
         {"mail": (0, ["schedule daily"])}),
    ],
)  # fmt: skip
def test_the_housekeeper_warns_of_every_topic_with_jobs_and_no_workers(
    keeper_of, registry, caplog, settings, pushed, senders, told
):
    for topic, names in senders.items():
        for name in names:
            job(name=name, registry=registry, **({} if topic is None else {"topic": topic}))(lambda: None)
    app, keeper = keeper_of(**settings)
    for topic in pushed:
        push(app, topic)
    backlog, events = look(keeper, caplog)
    assert {event.topic: (event.waiting, event.senders) for event in events} == told
    assert backlog.unserved == {topic: names for topic, (_, names) in told.items()}
    assert set(pushed) <= set(backlog.topics), "every topic that the backend holds is counted"


def test_it_warns_once_and_once_more_when_jobs_begin_to_wait(keeper_of, registry, caplog):
    job(name="tasks.send", registry=registry, topic="mail")(lambda: None)
    app, keeper = keeper_of()
    assert [event.waiting for event in look(keeper, caplog)[1]] == [0]
    assert look(keeper, caplog)[1] == []
    push(app, "mail", delay=60.0)
    keeper._next_survey = 0.0
    assert [event.waiting for event in look(keeper, caplog)[1]] == [1]
    push(app, "mail")
    keeper._next_survey = 0.0
    assert look(keeper, caplog)[1] == []


def test_unconfigured_topics_are_counted_in_a_small_share_of_the_time(keeper_of, caplog, monkeypatch):
    app, keeper = keeper_of()
    clock = [100.0]
    monkeypatch.setattr("jobs_core.supervisor.housekeeper.housekeeper.time.monotonic", lambda: clock[0])
    asked = keeper._backend.topics

    def slow():
        clock[0] += 0.5
        return asked()

    monkeypatch.setattr(keeper._backend, "topics", slow)
    for _ in range(2):  # one alone may be a standstill of the machine
        look(keeper, caplog)
    assert keeper._next_survey == pytest.approx(clock[0] + 25.0)
    push(app, "mail")
    assert "mail" not in look(keeper, caplog)[0].topics
    clock[0] += 25.0
    assert "mail" in look(keeper, caplog)[0].topics


ODD = [b"\xff", 7, None, "a b", "\x1b[31m", "", "x" * 200, ".hidden"]


@pytest.mark.parametrize(
    "listed", [ODD, ValueError("odd"), TypeError("odd"), BackendError("odd rows")], ids=lambda odd: type(odd).__name__
)
def test_the_housekeeper_counts_any_queue_content(keeper_of, caplog, monkeypatch, listed):
    app, keeper = keeper_of()

    def topics():
        if isinstance(listed, Exception):
            raise listed
        return [*listed, "mail"]

    push(app, "mail")
    push(app, "default")
    monkeypatch.setattr(keeper._backend, "topics", topics)
    backlog, events = look(keeper, caplog)
    keeper._next_survey = 0.0
    _, again = look(keeper, caplog)
    assert backlog.topics["default"].ready == 1
    if isinstance(listed, Exception):
        assert [event.advice for event in events] == [f"its reserved jobs cannot be listed by topic: {told(listed)}"]
        assert again == [], "once"
    else:
        assert set(backlog.topics) == {"default", "mail"}


def test_an_outage_stays_one(keeper_of, monkeypatch, caplog):
    _, keeper = keeper_of()

    def away():
        raise BackendUnavailable("away")

    monkeypatch.setattr(keeper._backend, "topics", away)
    with pytest.raises(BackendUnavailable):
        look(keeper, caplog)


def test_a_pool_cannot_serve_a_produce_only_topic(project):
    project.configure("[topics.default]\nserve = false")
    says = "topics.default.serve: is false, but pool default serves default: remove one of the two"
    with pytest.raises(ConfigError, match=says):
        project.app()


def test_status_marks_such_a_topic_and_reports_jobs_that_wait_there(project):
    board = FakeBoard(project.root / ".jobs")
    board.backlog.topics = {"idle": TopicState(), "mail": TopicState(2, 1), "else": TopicState(5), "default": TopicState(9)}
    board.backlog.unserved = {"mail": [], "idle": ["tasks.send"]}
    board.write()
    with board.held():
        text = project.here("status")
        as_json = json.loads(project.here("status", "--json"))
    board.close()
    assert [line for line in text.splitlines() if line.startswith("! ")] == [
        "! no pool serves topic mail (3 jobs are waiting there): add it to the topics of a pool, or set serve = false in "
        "[topics.mail] if workers elsewhere serve it"
    ]
    marks = {line.split()[0]: line for line in text.splitlines() if line.endswith(("no pool serves it", "not served here"))}
    assert {name: line.split("  ")[-1] for name, line in marks.items()} == {
        "mail": "no pool serves it", "idle": "no pool serves it", "else": "not served here",
    }  # fmt: skip
    assert {name: topic["unserved"] for name, topic in as_json["topics"].items()} == {
        "idle": True, "mail": True, "else": False, "default": False,
    }  # fmt: skip


def test_start_and_reload_warn_until_a_pool_serves_it_or_it_is_produce_only(project: Project):
    (project.root / "tasks.py").write_text(TASKS + '\n@job(topic="mail")\ndef send(): ...\n')
    project.configure()
    project.push("note", "x", topic="attic")
    sends = (
        "jobs: no pool serves topic mail (tasks.send enqueues to it): add it to the topics of a pool, or set serve = false in"
    )
    waits = "jobs: no pool serves topic attic (1 job is waiting there): add it to the topics of a pool, or set serve = false in"
    try:
        started = project.run("start", "--daemon")
        assert (sends in started.stderr, waits in started.stderr) == (True, True), started
        log = (project.root / ".jobs/jobs.log").read_text()
        assert sends.removeprefix("jobs: ") in log
        assert waits.removeprefix("jobs: ") in log
        project.configure("[topics.mail]\nserve = false")
        assert (done := project.run("reload")).stderr.count("no pool serves") == 1, done
        assert waits in done.stderr
        project.configure('[topics.mail]\nserve = false\n[pools.default]\ntopics = ["default", "attic"]')
        assert without_waits(project.run("reload").stderr) == ""
    finally:
        project.run("exit")


def test_check_warns_too(project):
    (project.root / "tasks.py").write_text(TASKS + '\n@job(topic="mail")\ndef send(): ...\n')
    project.configure()
    assert "no pool serves topic mail (tasks.send enqueues to it)" in project.here("check")
    project.configure("[topics.mail]\nserve = false")
    assert "no pool serves topic mail (" not in project.here("check")


# -- where jobs are enqueued, and by a lone worker -----------------------------------------------------

ELSEWHERE = TASKS + "\n@job(topic='reports')\ndef report(): ...\n"
SAYS = "no pool serves topic reports (tasks.report enqueues to it): add it to the topics of a pool"


@pytest.mark.parametrize("arguments", [["tasks.report"], ["tasks.note", "--topic", "reports"], ["--json", "lines"]])
def test_push_warns_once_for_each_topic(project, arguments):
    (project.root / "tasks.py").write_text(ELSEWHERE)
    (project.root / "lines").write_text('{"job": "tasks.report"}\n{"job": "tasks.note"}\n{"job": "tasks.report"}\n')
    said = project.here("push", *arguments)
    assert said.count("no pool serves topic reports (") == 1
    assert said.count("no pool serves") == 1
    project.configure("[topics.reports]\nserve = false")
    assert "no pool serves" not in project.here("push", *arguments)


@pytest.mark.parametrize(
    ("settings", "warns"),
    [
        ({"modules": ["tasks"]}, True),
        ({"framework": "django"}, True),
        ({"pools": {"mail": Pool(topics=["mail"])}}, True),
        ({"modules": ["tasks"], "topics": {"reports": Topic(serve=False)}}, False),
        ({"pools": {"mail": Pool(topics=["reports"])}}, False),
        ({}, False),  # where jobs are enqueued, nothing is said about workers: they have another configuration
    ],
)
def test_an_enqueue_warns_once_of_each_topic(registry, caplog, settings, warns):
    app = App(Config(backend=f"memory://{new_token()}", **settings), registry=registry)
    report = job(name="tasks.report", topic="reports", registry=registry)(lambda: None)
    with caplog.at_level(logging.WARNING, "jobs"):
        for _ in range(3):
            app.enqueue(report.call())
            app.enqueue(report.using(delay=3).call())
    assert [record.getMessage()[: len(SAYS)] for record in caplog.records] == [SAYS] * warns
    app.close()


def test_a_single_worker_warns_too_but_not_of_topics_that_it_serves(project):
    (project.root / "tasks.py").write_text(ELSEWHERE)
    assert SAYS in project.run("worker", "--drain").stderr
    assert "no pool serves" not in project.run("worker", "--drain", "--topics", "reports").stderr


def test_channels_are_alerted_once_of_jobs_without_workers(keeper_of, caplog, monkeypatch):
    app, keeper = keeper_of(topics={"reports": Topic(alert_above=1)})
    sent = []
    monkeypatch.setattr(keeper._alerts, "send", sent.append)
    look(keeper, caplog)
    assert sent == []
    push(app, "reports")
    look(keeper, caplog)
    look(keeper, caplog)
    [alert] = sent
    assert alert.title == "jobs: no pool serves topic reports"
    assert "add it to a pool's topics, or set serve = false in [topics.reports]" in alert.text
    assert (alert.facts["kind"], alert.facts["ready"]) == ("unserved", 1)
