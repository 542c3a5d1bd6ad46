"""`jobsctl dead groups`, `retry` and `purge`: dead letters are grouped by what went wrong, and treated a batch at a time."""

from __future__ import annotations

import json
import time

import pytest

from jobs_core.backends.base import JobRecord, Outcome, Settlement, State
from jobs_core.backends.letters import last_of, normalised, place_of
from jobs_core.cli import dead_groups
from jobs_core.ids import new_token


def fingerprint(record):
    return last_of(record.reason, record.errors)


TRACE = """Traceback (most recent call last):
  File "/srv/app/shop/orders.py", line {line}, in charge
    pay(order)
  File "/srv/venv/lib/python3.11/site-packages/httpx/_client.py", line 9, in send
    raise
ValueError: {message}"""


def error(message="no such order 4711", kind="ValueError", line=3, **more):
    return {"type": kind, "message": message, "traceback": TRACE.format(line=line, message=message), "attempt": 1, **more}


def bury(project, *errors, topic="default", job="note"):
    """Create a dead letter of each error; return their ids."""
    backend = project.app().new_backend()
    backend.open("taker")
    ids = []
    for each in errors:
        ids.append(project.push(job, "hello", topic=topic))
        [held] = backend.reserve([topic], 1, new_token())
        document = json.dumps(each).encode()
        backend.settle([Settlement(held.id, held.token, Outcome.DEAD, reason="failed", error=document)], new_token())
    backend.close()
    return ids


def letter(**facts):
    return JobRecord("id", "default", State.DEAD, reason="failed", errors=(json.dumps(error(**facts)).encode(),))


@pytest.mark.parametrize(
    "other",
    [
        {"message": "no such order 12"},
        {"line": 77},
        {"message": "no such order 4711\nwith details that differ"},
    ],
    ids=["number", "line", "details"],
)
def test_what_differs_from_job_to_job_is_no_part_of_a_fingerprint(other):
    assert fingerprint(letter(**other)) == fingerprint(letter())


@pytest.mark.parametrize("other", [{"kind": "KeyError"}, {"message": "no such customer 4711"}], ids=["type", "message"])
def test_another_error_has_another_fingerprint(other):
    assert fingerprint(letter(**other)).id != fingerprint(letter()).id


def test_messages_lose_ids_numbers_and_quoted_text():
    said = "job 01a21c06-651e-7eb7-826f-4d3de240dd27 at 0x7fa4 lost 'x y' and \"z\" after 1,5 s (deadbeef01)"
    assert normalised(said) == "job <id> at <hex> lost <text> and <text> after <n> s (<hex>)"
    assert normalised("") == ""


def test_the_place_is_in_the_applications_code():
    assert place_of(TRACE.format(line=3, message="x")) == "charge in shop/orders.py"
    only_foreign = '  File "/usr/lib/python3.11/json/decoder.py", line 1, in decode\n'
    assert place_of(only_foreign) == "decode in json/decoder.py"
    assert place_of("") == ""


def test_a_letter_without_errors_has_the_fingerprint_of_its_reason():
    found = fingerprint(JobRecord("id", "default", State.DEAD, reason="expired"))
    assert (found.kind, found.place, found.message) == ("expired", "", "")


def test_groups_are_listed_with_their_number_largest_first(project):
    bury(project, error(), error("no such order 1"), topic="mail")
    bury(project, error("no such order 2"), error(kind="KeyError"))
    rows = [line.split("\t") for line in project.here("dead", "groups").splitlines()]
    assert [(row[1], row[2]) for row in rows] == [("3", "ValueError: no such order <n>"), ("1", "KeyError: no such order <n>")]
    assert rows[0][3:6] == ["charge in shop/orders.py", "tasks.note", "default, mail"]
    [only] = [line.split("\t") for line in project.here("dead", "groups", "mail").splitlines()]
    assert (only[0], only[1]) == (rows[0][0], "2")
    found = json.loads(project.here("dead", "groups", "--json", "--error", "KeyError"))
    assert [(each["letters"], each["type"]) for each in found] == [(1, "KeyError")]


def test_retry_and_purge_take_one_group_and_leave_the_others(project, monkeypatch):
    monkeypatch.setattr(dead_groups, "BATCH", 2)
    many = bury(project, *[error(f"no such order {number}") for number in range(5)])
    [other] = bury(project, error(kind="KeyError"))
    group = fingerprint(letter()).id
    assert "5 dead letters in group" in project.here("dead", "retry", "--group", group, code=2)
    assert "5 jobs are ready again" in project.here("dead", "retry", "--group", group, "--yes")
    assert [line.split("\t")[0] for line in project.here("dead", "list").splitlines()] == [other]
    ready = {line.split("\t")[0] for line in project.here("list", "default").splitlines()}
    assert ready == set(many)
    assert "no dead letters in group" in project.here("dead", "retry", "--group", group, "--yes", code=1)
    assert "`jobsctl dead groups` lists the groups" in project.here("dead", "list", "--group", group)
    key_error = fingerprint(letter(kind="KeyError")).id
    assert "1 dead letter deleted" in project.here("dead", "drop", "--group", key_error, "--yes")
    assert project.here("dead", "list") == ""


def test_a_search_selects_dead_letters(project):
    [one] = bury(project, error())
    [two] = bury(project, error(), job="ledger")
    assert project.here("dead", "list", "--job", "tasks.ledger").split("\t")[0] == two
    assert "1 job is ready again" in project.here("dead", "retry", "--job", "tasks.note", "--yes")
    assert project.here("dead", "list").split("\t")[0] == two
    assert project.here("show", one, "--json")


def test_a_rate_spreads_a_retry(project):
    bury(project, *[error() for _ in range(4)])
    began = time.monotonic()
    assert "4 jobs are ready again" in project.here("dead", "retry", "--topic", "default", "--rate", "4/2s", "--yes")
    assert time.monotonic() - began >= 1.0  # the second pair waits for the time of the first
    assert "--rate" in project.here("dead", "retry", "--topic", "default", "--rate", "fast", "--yes", code=2)


def test_an_interrupted_retry_leaves_whole_batches_and_continues(project, monkeypatch):
    monkeypatch.setattr(dead_groups, "BATCH", 2)
    bury(project, *[error() for _ in range(5)])
    calls = []

    def interrupted(start, total):
        calls.append(start)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(dead_groups.output, "progress", interrupted)
    project.here("dead", "retry", "--topic", "default", "--yes", code=None)
    assert len(project.here("dead", "list").splitlines()) == 3
    assert "3 jobs are ready again" in project.here("dead", "retry", "--topic", "default", "--yes")
    assert project.here("dead", "list") == ""


@pytest.mark.parametrize("arguments", [(), ("x", "--group", "y"), ("x", "--job", "y"), ("x", "--topic", "y")])
def test_ids_and_a_selection_exclude_each_other(project, arguments):
    assert "give ids, or a topic with --topic" in project.here("dead", "retry", *arguments, code=2)
