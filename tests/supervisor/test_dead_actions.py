"""Actions on dead letters go on when the command has ended or a supervisor is killed; one machine carries out each."""

from __future__ import annotations

import json
import signal
import time

import msgspec
import pytest

from jobs_core import ArgumentError, dead_actions, job
from jobs_core.app import App
from jobs_core.backends.base import Outcome, Outgoing, Settlement, State
from jobs_core.backends.letters import EXPIRED, Fingerprint
from jobs_core.backends.memory import forget
from jobs_core.config import Config
from jobs_core.dead_actions import Action, DeadActions
from jobs_core.ids import new_token
from jobs_core.message import encode, new_message
from jobs_core.operating import dead as operating
from jobs_core.registry import Registry
from jobs_core.search import Search

from ..support.project import Project, until
from ..support.supervised import Supervised

CAUSE, OTHER = Fingerprint("abcd1234", "ValueError", "", "no"), Fingerprint("ffff0000", "KeyError", "", "no")


def bury(backend, *causes, topic="default"):
    """Let a job die of each cause; return their ids."""
    messages = [new_message("tasks.note", topic, [str(number)], {}) for number, _ in enumerate(causes)]
    backend.push([Outgoing(each.id, topic, encode(each)) for each in messages], new_token())
    for cause in causes:
        [held] = backend.reserve([topic], 1, new_token())
        backend.settle([Settlement(held.id, held.token, Outcome.DEAD, reason="failed", fingerprint=cause)], new_token())
    return [each.id for each in messages]


def _bury_of(backend, name, outcome=Outcome.DEAD, reason="failed"):
    """Let a job of this name die of CAUSE."""
    message = new_message(name, "default", [], {})
    backend.push([Outgoing(message.id, "default", encode(message))], new_token())
    [held] = backend.reserve(["default"], 1, new_token())
    backend.settle([Settlement(held.id, held.token, outcome, reason=reason, fingerprint=CAUSE)], new_token())
    return [message.id]


def actions(project: Project) -> list[dict]:
    return json.loads(project.here("dead", "actions", "--json"))


def test_an_action_goes_on_after_its_supervisor_is_killed(project: Project):
    project.configure("pools.other.topics = ['other']")
    backend = project.app().new_backend()
    backend.open("taker")
    bury(backend, *[CAUSE] * 60)
    others = [_bury_of(backend, "tasks.other")[0] for _ in range(3)]
    first = Supervised(project)
    selected = ("--group", CAUSE.id, "--job", "note")
    said = project.here("dead", "retry", *selected, "--rate", "4/s", "--background", "--to", "other", "--yes")
    assert "of 63 dead letters, those that the filters select will be retried" in said
    until(lambda: 5 <= actions(project)[0]["done"] < 60)
    first.process.signal(signal.SIGKILL)
    first.process.wait()
    assert 3 < backend.counts(["default"])["default"].dead < 63
    second = Supervised(project)
    until(lambda: actions(project)[0]["state"] == "done", patience=90)
    assert {each.id for each in backend.browse("default", State.DEAD, 100)} == set(others)
    assert backend.browse("other", State.DEAD, 100) == []
    [action] = actions(project)
    assert (action["done"], action["others"], action["filters"]) == (60, 3, {"job": "note"})
    project.until_empty("other")
    assert sorted(project.ledger()) == sorted(f"note {number}" for number in range(60)), "each ran once"
    second.stop()
    backend.close()


def test_a_cancelled_action_leaves_the_rest(project: Project):
    backend = project.app().new_backend()
    backend.open("taker")
    bury(backend, *[CAUSE] * 60)
    supervised = Supervised(project)
    project.here("dead", "drop", "--topic", "default", "--rate", "2/s", "--background", "--yes")
    [running] = until(lambda: [each for each in actions(project) if each["done"]])
    assert f"action {running['id']} is cancelled" in project.here("dead", "actions", "--cancel", running["id"][:8])
    assert actions(project)[0]["state"] == "cancelled"
    assert "no action that goes on" in project.here("dead", "actions", "--cancel", running["id"], code=1)
    supervised.stop()
    assert 0 < backend.counts(["default"])["default"].dead < 60
    backend.close()


# -- steps, on a queue in memory ---------------------------------------------------------------------------


@pytest.fixture
def queue():
    """A queue in memory with its application, and a connection that buries jobs."""
    url = f"memory://{new_token()}"
    app = App(Config(backend=url))
    backend = app.new_backend()
    backend.open("taker")
    yield app, backend
    backend.close()
    app.close()
    forget(url)


def carry_out(backend, *machines: DeadActions) -> None:
    deadline = time.monotonic() + 30
    while dead_actions.listed(machines[0]._app, backend)[-1].state in ("waiting", "running"):
        assert time.monotonic() < deadline
        for machine in machines:
            machine.look(backend, backend.document_versions([dead_actions.ACTION])[dead_actions.ACTION])
            machine.work(backend)


def until_now(backend) -> float:
    return max(group.last for group in backend.dead_groups(backend.topics(), 100))


def test_two_machines_share_no_action(queue):
    app, backend = queue
    bury(backend, *[CAUSE] * 250)
    dead_actions.start(app, backend, Action("retry", ["default"], until_now(backend), 250))
    carry_out(backend, DeadActions(app, "one"), DeadActions(app, "two"))
    [listed] = dead_actions.listed(app, backend)
    assert (listed.state, listed.progress.done) == ("done", 250)
    assert listed.progress.machine in ("one", "two")
    assert backend.counts(["default"])["default"].ready == 250


@pytest.mark.parametrize(
    "action",
    [
        Action("retry", ["default"], 2e9, 1, rate=1e-320),
        Action("retry", ["default"], 2e9, 1, rate=-1.0),
        Action("retry", ["\0"], 2e9, 1, group=CAUSE.id),
        Action("retry", ["default"], 2e9, 1, to="../x"),
    ],
    ids=["rate", "negative rate", "topic", "target"],
)
def test_an_action_that_makes_no_sense_is_refused_once_and_stops_no_other(queue, action, caplog):
    app, backend = queue
    bury(backend, CAUSE)
    name = dead_actions.start(app, backend, action)
    dead_actions.start(app, backend, Action("drop", ["default"], until_now(backend), 1))
    carry_out(backend, machine := DeadActions(app, "one"))
    machine.look(backend, -2)  # whatever has changed
    assert backend.counts(["default"])["default"].dead == 0
    assert "../x" not in backend.topics()
    assert caplog.text.count(f"action {name} on dead letters is refused") == (not action.group)


def test_an_unforeseen_error_fails_an_action_and_stops_no_other(queue, monkeypatch):
    app, backend = queue
    bury(backend, CAUSE, OTHER)
    for cause in (CAUSE, OTHER):
        dead_actions.start(app, backend, Action("drop", ["default"], until_now(backend), 1, group=cause.id))
    drop, calls = backend.drop, []

    def fail_once(ids):
        calls.append(ids)
        if len(calls) == 1:
            raise ZeroDivisionError("unforeseen")
        return drop(ids)

    monkeypatch.setattr(backend, "drop", fail_once)
    carry_out(backend, DeadActions(app, "one"))
    assert sorted((each.state, each.progress.error) for each in dead_actions.listed(app, backend)) == [
        ("done", ""),
        ("failed", "unforeseen"),
    ]


def test_a_progress_that_cannot_be_read_hides_no_action(queue):
    app, backend = queue
    bury(backend, CAUSE)
    name = dead_actions.start(app, backend, Action("drop", ["default"], until_now(backend), 1))
    for broken, data in {name: b"{}", "other": b"\xff"}.items():
        backend.put_document(dead_actions.PROGRESS, broken, data, new_token())
    assert [each.id for each in dead_actions.listed(app, backend)] == [name]
    carry_out(backend, DeadActions(app, "one"))
    assert [(each.id, each.state) for each in dead_actions.listed(app, backend)] == [(name, "done")]


def test_an_action_that_is_replaced_without_the_keys_stops_no_housekeeper(queue):
    app, backend = queue
    signing = App(Config(backend=app.config.backend, signing_keys=["a:0123456789012345678901234567890123"]))
    bury(backend, CAUSE, CAUSE)
    name = dead_actions.start(signing, backend, Action("drop", ["default"], until_now(backend), 2, rate=1.0))
    machine = DeadActions(signing, "one")
    machine.look(backend, 1)
    backend.put_document(dead_actions.ACTION, name, b"{}", new_token())
    machine.work(backend)
    machine.look(backend, 2)
    machine.work(backend)
    assert backend.counts(["default"])["default"].dead == 2
    signing.close()


def test_letters_of_other_groups_and_later_ones_stay(queue):
    app, backend = queue
    bury(backend, CAUSE, OTHER, CAUSE)
    action = Action("drop", ["default"], until_now(backend), 2, group=CAUSE.id)
    time.sleep(0.01)
    [later] = bury(backend, CAUSE)
    dead_actions.start(app, backend, action)
    carry_out(backend, DeadActions(app, "one"))
    assert dead_actions.listed(app, backend)[0].progress.done == 2
    assert {group.fingerprint.id: group.example for group in backend.dead_groups(["default"], 9)}[CAUSE.id] == later
    assert len(backend.browse("default", State.DEAD, 9)) == 2


@pytest.mark.parametrize("to", ["", "other"])
def test_letters_run_again_with_other_arguments_and_those_that_they_do_not_fit_stay(queue, to):
    app, backend = queue
    app.registry = Registry()

    @job(name="tasks.note", registry=app.registry)
    def note(text: str, copies: int = 1) -> None: ...

    ids = bury(backend, *[CAUSE] * 120)
    [other] = _bury_of(backend, "tasks.gone")
    values = {"copies": 2, "text": "again"}
    assert operating.tried(app, backend, ["default"], CAUSE.id, {"copies": "many"}).fits == 0
    trial = operating.tried(app, backend, ["default"], CAUSE.id, values)
    assert (trial.read, trial.fits) == (100, 100)
    operating.start(app, backend, "retry", ["default"], CAUSE.id, None, to, values)
    carry_out(backend, DeadActions(app, "one"))
    [listed] = dead_actions.listed(app, backend)
    assert (listed.progress.action.do, listed.progress.done, listed.progress.kept) == ("edit", 120, 1)
    assert "tasks.gone" in listed.progress.error
    assert backend.get(other).state is State.DEAD
    messages = [app.envelope(backend.get(each)) for each in ids]
    assert {(message.args[0], message.kwargs["copies"], message.topic) for message in messages} == {
        ("again", 2, to or "default")
    }


def test_an_action_takes_the_letters_that_its_filters_select(queue):
    app, backend = queue
    ids = bury(backend, *[CAUSE, OTHER] * 130)
    others = [_bury_of(backend, "tasks.other")[0] for _ in range(3)]
    operating.start(app, backend, "drop", ["default"], search=Search(job="note", text='"1'))
    carry_out(backend, DeadActions(app, "one"))
    [listed] = dead_actions.listed(app, backend)
    ones = [job_id for number, job_id in enumerate(ids) if str(number).startswith("1")]
    assert (listed.state, listed.progress.done, listed.progress.others) == ("done", len(ones), 263 - len(ones))
    assert {each.id for each in backend.browse("default", State.DEAD, 300)} == {*ids, *others} - {*ones}


@pytest.mark.parametrize(
    "action",
    [Action("drop", ["default"], 2e9, 1, search=Search(job="note")), Action("drop those", ["default"], 2e9, 1)],
    ids=["only a filter", "only the name"],
)
def test_an_action_whose_filters_do_not_fit_its_name_is_refused(queue, action, caplog):
    app, backend = queue
    bury(backend, CAUSE)
    backend.put_document(dead_actions.ACTION, "x", msgspec.json.encode(action), new_token())
    machine = DeadActions(app, "one")
    machine.look(backend, 1)
    machine.work(backend)
    assert "action x on dead letters is refused" in caplog.text
    assert backend.counts(["default"])["default"].dead == 1


def test_letters_that_move_up_while_an_action_passes_others_by_are_not_missed(queue, monkeypatch):
    app, backend = queue
    monkeypatch.setattr(dead_actions, "_PAGES", 1)  # so that others can leave between two pages
    others = [_bury_of(backend, "tasks.other")[0] for _ in range(150)]
    bury(backend, *[CAUSE] * 150)
    operating.start(app, backend, "drop", ["default"], CAUSE.id, search=Search(job="tasks.note"))
    machine = DeadActions(app, "one")
    machine.look(backend, 1)
    for _ in range(3):
        machine.work(backend)
    assert backend.drop(others[:100]) == 100
    carry_out(backend, machine)
    assert [each.id for each in backend.browse("default", State.DEAD, 300)] == others[:99:-1]


def test_a_successor_goes_on_with_the_filters_of_a_killed_machine(queue):
    app, backend = queue
    bury(backend, *[CAUSE] * 150)
    others = [_bury_of(backend, "tasks.other")[0] for _ in range(2)]
    operating.start(app, backend, "retry", ["default"], search=Search(job="note"))
    first = DeadActions(app, "one")
    first.look(backend, 1)
    while backend.counts(["default"])["default"].ready < 100:
        first.work(backend)
    for document in backend.documents(dead_actions.CLAIM, 9):
        backend.delete_document(dead_actions.CLAIM, document.name, new_token())  # as if its time were over
    carry_out(backend, DeadActions(app, "two"))
    [listed] = dead_actions.listed(app, backend)
    assert (listed.progress.machine, listed.progress.done, listed.progress.others) == ("two", 150, 2)
    assert {each.id for each in backend.browse("default", State.DEAD, 9)} == set(others)


def test_letters_that_a_killed_machine_had_changed_so_that_the_filters_no_longer_select_them_run(queue, monkeypatch):
    app, backend = queue
    app.registry = Registry()

    @job(name="tasks.note", registry=app.registry)
    def note(text: str) -> None: ...

    ids = bury(backend, *[CAUSE] * 3)
    operating.start(app, backend, "retry", ["default"], search=Search(text='"1"'), values={"text": "new"})
    with monkeypatch.context() as killed:
        killed.setattr(type(backend), "requeue", lambda self, ids: exec("raise KeyboardInterrupt"))
        with pytest.raises(KeyboardInterrupt):
            carry_out(backend, DeadActions(app, "one"))
    for document in backend.documents(dead_actions.CLAIM, 9):
        backend.delete_document(dead_actions.CLAIM, document.name, new_token())  # as if its time were over
    carry_out(backend, DeadActions(app, "two"))
    assert [each.id for each in backend.browse("default", State.READY, 9)] == [ids[1]]
    assert app.envelope(backend.get(ids[1])).args == ["new"]
    assert len(backend.browse("default", State.DEAD, 9)) == 2


def test_a_letter_whose_arguments_cannot_be_searched_stays_and_is_told(queue):
    app, backend = queue
    one, two = bury(backend, CAUSE, CAUSE)
    [record] = [each for each in backend.browse("default", State.DEAD, 9) if each.id == one]
    assert backend.amend(one, record.payload, b"nonsense")
    operating.start(app, backend, "drop", ["default"], search=Search(text="1"))
    carry_out(backend, DeadActions(app, "one"))
    [listed] = dead_actions.listed(app, backend)
    assert (listed.progress.done, listed.progress.kept) == (1, 1)
    assert "not JSON" in listed.progress.error
    assert backend.get(two) is None


def test_new_arguments_that_have_to_stay_secret_are_not_stored_in_an_action(queue):
    app, backend = queue
    secret = App(Config(backend=app.config.backend, encryption_keys=["one:" + "x" * 32]))
    bury(backend, CAUSE)
    with pytest.raises(ArgumentError, match="encrypted"):
        operating.start(secret, backend, "retry", ["default"], CAUSE.id, values={"text": "secret"})
    with pytest.raises(ArgumentError, match="encrypted"):
        operating.start(secret, backend, "drop", ["default"], search=Search(text="secret"))
    secret.close()


def test_letters_that_have_expired_stay_and_the_others_are_retried(queue):
    app, backend = queue
    ids = bury(backend, CAUSE)
    expired = _bury_of(backend, "tasks.note", Outcome.EXPIRED, EXPIRED)
    operating.start(app, backend, "retry", ["default"])
    carry_out(backend, DeadActions(app, "one"))
    [listed] = dead_actions.listed(app, backend)
    assert (listed.state, listed.progress.done, listed.progress.kept) == ("done", 1, 1)
    assert "would expire again at once" in listed.progress.error
    assert [each.id for each in backend.browse("default", State.DEAD, 9)] == expired
    assert [each.id for each in backend.browse("default", State.READY, 9)] == ids


def test_a_letter_that_cannot_be_moved_stays_and_the_others_are_retried(queue):
    app, backend = queue
    ids = bury(backend, CAUSE, CAUSE, CAUSE)
    [record] = [each for each in backend.browse("default", State.DEAD, 9) if each.id == ids[1]]
    assert backend.amend(ids[1], record.payload, b"nonsense")
    dead_actions.start(app, backend, Action("retry", ["default"], until_now(backend), 3, to="other"))
    carry_out(backend, DeadActions(app, "one"))
    [listed] = dead_actions.listed(app, backend)
    assert (listed.state, listed.progress.done, listed.progress.kept) == ("done", 2, 1)
    assert "not JSON" in listed.progress.error
    assert [each.id for each in backend.browse("default", State.DEAD, 9)] == [ids[1]]
    assert {each.id for each in backend.browse("other", State.READY, 9)} == {ids[0], ids[2]}


def test_what_a_killed_machine_had_moved_is_retried_by_its_successor(queue, monkeypatch):
    app, backend = queue
    bury(backend, CAUSE, CAUSE)
    dead_actions.start(app, backend, Action("retry", ["default"], until_now(backend), 2, to="other"))
    with monkeypatch.context() as killed:
        killed.setattr(type(backend), "requeue", lambda self, ids: exec("raise KeyboardInterrupt"))
        with pytest.raises(KeyboardInterrupt):
            carry_out(backend, DeadActions(app, "one"))
    assert len(backend.browse("other", State.DEAD, 9)) == 2
    for document in backend.documents(dead_actions.CLAIM, 9):
        backend.delete_document(dead_actions.CLAIM, document.name, new_token())  # as if its time were over
    carry_out(backend, DeadActions(app, "two"))
    assert len(backend.browse("other", State.READY, 9)) == 2
    assert dead_actions.listed(app, backend)[0].state == "done"


def test_an_action_without_a_signature_is_refused_where_there_are_keys(queue, caplog):
    app, backend = queue
    bury(backend, CAUSE)
    dead_actions.start(app, backend, Action("drop", ["default"], until_now(backend), 1))
    keyed = App(Config(backend=app.config.backend, signing_keys=["k1:a secret of many letters"]))
    machine = DeadActions(keyed, "one")
    machine.look(backend, 1)
    machine.work(backend)
    assert "is refused" in caplog.text
    assert len(backend.browse("default", State.DEAD, 9)) == 1
    keyed.close()
