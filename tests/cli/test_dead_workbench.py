"""The workbench of dead letters: edit, move and drop them, one or many, at a rate, interrupted or in the background."""

from __future__ import annotations

import json
import signal
import time

import pytest

from jobs_core.backends.base import Outcome, Settlement, State
from jobs_core.backends.flows import Member, Part
from jobs_core.backends.letters import Fingerprint
from jobs_core.cli import dead_editing
from jobs_core.ids import new_token
from jobs_core.message import new_message

ERROR = json.dumps({"type": "ValueError", "message": "no", "traceback": ""}).encode()
CAUSE = Fingerprint("abcd1234", "ValueError", "", "no")
KEY = 'signing_keys = ["k1:a secret of many letters"]'


def bury(project, *calls, topic="default"):
    """Let a job die of each call (job, args, kwargs); return their ids."""
    backend = project.app().new_backend()
    backend.open("taker")
    ids = []
    for job, args, kwargs in calls:
        ids.append(project.push(job, *args, kwargs=kwargs, topic=topic))
        [held] = backend.reserve([topic], 1, new_token())
        ending = Settlement(held.id, held.token, Outcome.DEAD, reason="failed", error=ERROR, fingerprint=CAUSE)
        backend.settle([ending], new_token())
    backend.close()
    return ids


def adds(project, *pairs, **options):
    return bury(project, *[("add", pair, {}) for pair in pairs], **options)


def found(project, topic, state):
    """Return the ids of jobs with their arguments."""
    app = project.app()
    records = app.operate(lambda backend: backend.browse(topic, State(state), 100))
    messages = {record.id: app.envelope(record) for record in records}
    return {job_id: (message.args, message.kwargs) for job_id, message in messages.items()}


def dead(project):
    return {record["id"] for record in json.loads(project.here("dead", "list", "--json"))}


# -- one dead letter -----------------------------------------------------------------------------------


def test_a_dead_letter_is_retried_with_other_arguments_under_its_id(project):
    [job_id] = adds(project, ("one", 2))
    said = project.here("dead", "retry", job_id, "--args", "[1]", "--kwargs", '{"b": 5}')
    assert said == "1 job is ready again\n"
    assert found(project, "default", "ready") == {job_id: ([1], {"b": 5})}
    assert project.run("worker", "--drain").returncode == 0
    assert not project.dead()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--args", '["x", 2]'), "argument 'a' of tasks.add"),
        (("--args", "[1, 2, 3]"), "tasks.add"),
        (("--args", "{}"), "--args: expected an array"),
        (("--args", "[1"), "--args: not JSON"),
        (("--kwargs", '{"c": 1}'), "c"),
        (("--set", "c=1"), "c"),
        (("--set", "a=x"), "argument 'a' of tasks.add"),
    ],
    ids=["type", "number", "shape", "json", "name", "set-name", "set-type"],
)
def test_arguments_that_do_not_fit_change_nothing(project, options, reason):
    [job_id] = adds(project, (1, 2))
    assert reason in project.here("dead", "retry", job_id, *options, code=None)
    assert dead(project) == {job_id}
    assert project.here("dead", "retry", job_id) == "1 job is ready again\n"
    assert found(project, "default", "ready") == {job_id: ([1, 2], {})}


def test_the_editor_shows_the_arguments_and_its_text_is_checked(project, tmp_path):
    [job_id] = adds(project, ("one", 2))
    editor, seen = tmp_path / "editor", tmp_path / "seen"
    editor.write_text(f'#!/bin/sh\ncp "$1" {seen}\nsed -i \'s/"one"/1/\' "$1"\n')
    editor.chmod(0o700)
    said = project.here("dead", "retry", job_id, "--edit", EDITOR=str(editor), VISUAL="")
    assert "1 job is ready again" in said
    assert json.loads(seen.read_text()) == {"args": ["one", 2], "kwargs": {}}
    assert found(project, "default", "ready") == {job_id: ([1, 2], {})}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("true", "nothing was changed in the editor"),
        ("exit 3", "the editor failed"),
        ("echo nonsense > \"$1\"", "the dead letter was not changed"),
        ("sed -i 's/2/\"two\"/' \"$1\"", "argument 'b' of tasks.add"),
    ],
    ids=["unchanged", "fails", "nonsense", "misfit"],
)  # fmt: skip
def test_an_editor_that_gives_nothing_usable_changes_nothing(project, tmp_path, script, reason):
    [job_id] = adds(project, (1, 2))
    editor = tmp_path / "editor"
    editor.write_text(f"#!/bin/sh\nsleep 1; {script}\n")  # click compares the times of the file, by seconds on some systems
    editor.chmod(0o700)
    assert reason in project.here("dead", "retry", job_id, "--edit", code=1, EDITOR=str(editor), VISUAL="")
    assert dead(project) == {job_id}


def test_a_letter_that_changes_during_the_edit_is_left_alone(project, monkeypatch):
    [job_id] = adds(project, (1, 2))
    payload = dead_editing.Change.payload

    def slow(self, context, record):
        made = payload(self, context, record)
        context.operate(lambda backend: backend.amend(record.id, record.payload, b"{}"))
        return made

    monkeypatch.setattr(dead_editing.Change, "payload", slow)
    said = project.here("dead", "retry", job_id, "--set", "a=3", code=1)
    assert f"{job_id} was not retried: it has changed in the meantime" in said
    assert dead(project) == {job_id}


def test_a_changed_letter_is_signed_anew(project):
    project.configure(KEY)
    [job_id] = adds(project, (1, 2))
    assert "1 job is ready again" in project.here("dead", "retry", job_id, "--set", "b=7", "--to", "other")
    assert project.here("list", "other").split("\t")[0] == job_id
    [record] = project.app().operate(lambda backend: backend.browse("other", State.READY, 10))
    message = project.app().envelope(record)  # verifies the signature
    assert (message.args, message.topic) == ([1, 7], "other")


def test_a_signed_letter_is_refused_without_keys_and_a_forged_one_with_them(project):
    project.configure(KEY)
    [job_id] = adds(project, (1, 2))
    project.configure()
    project._apps.clear()
    said = project.here("dead", "retry", job_id, "--set", "b=7", code=1)
    assert f"{job_id} is signed, and there are no signing_keys here to sign it anew" in said
    [forged] = adds(project, (1, 2), topic="forged")
    project.configure(KEY)
    assert "is not signed, but signing_keys are configured" in project.here(
        "dead", "retry", forged, "--to", "other", code=1
    )  # fmt: skip
    assert dead(project) == {job_id, forged}


def test_a_dead_letter_moves_to_another_topic_and_runs_there(project):
    [job_id] = bury(project, ("note", ("moved",), {}))
    output = project.here("dead", "retry", job_id, "--to", "other")
    assert "1 job is ready again in other\n" in output
    assert "no pool of this configuration serves topic other" in output, "the jobs wait for workers elsewhere"
    assert not dead(project)
    assert project.run("worker", "--drain", "--topics", "default").returncode == 0
    assert project.ledger() == []
    assert project.run("worker", "--drain", "--topics", "other").returncode == 0
    assert project.ledger() == ["note moved"]


def test_a_member_of_a_flow_stays_in_its_topic(project):
    app = project.app()
    call = app.outgoing(new_message("tasks.note", "default", ["x"], {}))
    member = type(call)(call.id, call.topic, call.payload, member=Member("the-flow"))
    app.operate(lambda backend: backend.push_part(Part("the-flow"), [member], new_token()))
    backend = app.new_backend()
    backend.open("taker")
    [held] = backend.reserve(["default"], 1, new_token())
    backend.settle([Settlement(held.id, held.token, Outcome.DEAD, reason="failed", error=ERROR)], new_token())
    backend.close()
    said = project.here("dead", "retry", member.id, "--to", "other", code=1)
    assert "is a member of a flow, which stays in its topic" in said
    assert dead(project) == {member.id}
    assert "1 job is ready again" in project.here("dead", "retry", member.id, "--args", '["y"]')


def test_a_rate_holds_for_ids_too(project):
    ids = adds(project, (1, 1), (2, 2), (3, 3))
    began = time.monotonic()
    assert "3 jobs are ready again" in project.here("dead", "retry", *ids, "--rate", "2/s")
    assert time.monotonic() - began >= 1.0


def test_purge_is_still_understood(project):
    [job_id] = adds(project, (1, 2))
    assert "1 dead letter deleted" in project.here("dead", "purge", job_id, "--yes")
    assert "purge" not in project.here("dead", "--help")


# -- many -------------------------------------------------------------------------------------------------


def test_a_stated_edit_applies_to_each_letter_that_it_fits(project):
    by_place, by_name = bury(project, ("add", ("x", 2), {}), ("add", (), {"a": "y"}))
    [other] = bury(project, ("note", ("text",), {}))
    said = project.here("dead", "retry", "--group", CAUSE.id, "--set", "a=7", "--yes", code=1)
    assert "2 jobs are ready again" in said
    assert f"{other} was not retried: " in said
    assert found(project, "default", "ready") == {by_place: ([7, 2], {}), by_name: ([], {"a": 7})}
    assert dead(project) == {other}


def test_a_group_moves_to_another_topic(project):
    ids = adds(project, *[(n, n) for n in range(5)])
    assert "5 jobs are ready again in other" in project.here("dead", "retry", "--group", CAUSE.id, "--to", "other", "--yes")
    assert found(project, "other", "ready").keys() == set(ids)
    assert json.loads(project.here("dead", "groups", "--json")) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--topic", "default", "--edit"), "are for one dead letter"),
        (("--topic", "default", "--args", "[]"), "are for one dead letter"),
        (("x", "--edit", "--set", "a=1"), "leave out --args, --kwargs and --set"),
        (("x", "--args", "[]", "--set", "a=1"), "leave out --args and --kwargs"),
        (("x", "--set", "a"), "--set: expected NAME=VALUE"),
        (("x", "--background"), "--background is for a topic, a group or filters"),
    ],
)
def test_options_that_exclude_one_another_are_refused(project, options, reason):
    assert reason in project.here("dead", "retry", *options, code=2)


def test_new_arguments_in_the_background_are_checked_before_the_action_begins(project):
    adds(project, (1, "x"), (2, "y"))
    background = ("dead", "retry", "--topic", "default", "--background", "--yes", "--set")
    assert "none of the first 2 dead letters can be changed like that" in project.here(*background, "b=many", code=1)
    assert json.loads(project.here("dead", "actions", "--json")) == []
    assert "2 dead letters will be changed and retried" in project.here(*background, "b=3")
    [action] = json.loads(project.here("dead", "actions", "--json"))
    assert (action["do"], action["total"], action["values"]) == ("edit", 2, {"b": 3})


def test_filters_go_into_the_background_with_the_action(project):
    adds(project, (1, "x"), (2, "y"))
    background = ("dead", "retry", "--background", "--job", "add", "--text", '"x"', "--yes", "--set")
    assert "none of the first 1 dead letter can be changed like that" in project.here(*background, "b=many", code=1)
    assert "of 2 dead letters, those that the filters select will be changed and retried" in project.here(*background, "b=3")
    [action] = json.loads(project.here("dead", "actions", "--json"))
    assert (action["do"], action["filters"], action["values"]) == ("edit", {"job": "add", "text": '"x"'}, {"b": 3})
    assert '--job add --text "x"' in project.here("dead", "actions")


def test_an_interrupt_ends_a_retry_after_the_batch_and_says_how_to_continue(project):
    adds(project, *[(n, n) for n in range(5)])
    command = project.start("dead", "retry", "--topic", "default", "--rate", "1/10s", "--yes")
    project.until(lambda: len(dead(project)) == 4)
    command.signal(signal.SIGINT)
    assert command.wait() == 1
    assert "interrupted: 1 of 5 dead letters are ready again" in command.output
    assert "repeat the command to continue" in command.output
    assert len(dead(project)) == 4
    assert "4 jobs are ready again" in project.here("dead", "retry", "--topic", "default", "--yes")
