"""The groups of dead letters in a queue file: letters of earlier releases, which may run beside this one, and their cost."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from jobs_core.backends.base import BackendOptions, Outcome, Outgoing, Settlement, State
from jobs_core.backends.letters import UNNAMED, Fingerprint, last_of
from jobs_core.backends.sqlite import SqliteBackend
from jobs_core.ids import new_id, new_token

FIXTURES = Path(__file__).parent / "fixtures"
CAUSE = Fingerprint("abcd1234", "ValueError", "", "no")
ERROR = json.dumps({"type": "ValueError", "message": "no", "traceback": ""}).encode()


@pytest.fixture
def backend(tmp_path):
    yield from _open(tmp_path / "queue.db")


def _open(path):
    backend = SqliteBackend(f"sqlite:///{path}", BackendOptions())
    backend.open("owner")
    yield backend
    backend.close()


def bury(backend, count, cause=CAUSE):
    ids = [new_id() for _ in range(count)]
    backend.push([Outgoing(each, "t", b"{}") for each in ids], new_token())
    held = backend.reserve(["t"], count, new_token())
    backend.settle(
        [Settlement(one.id, one.token, Outcome.DEAD, reason="failed", error=ERROR, fingerprint=cause) for one in held],
        new_token(),
    )
    return ids


def groups(backend):
    return {group.fingerprint.id: group.letters for group in backend.dead_groups(["t"], 100)}


def change(backend, *statements):
    """Change the tables as a process of an earlier release does."""
    with sqlite3.connect(backend._connection.path) as db:
        for statement in statements:
            db.execute(statement)
    db.close()


@pytest.mark.parametrize("schema", [1, 2, 3, 4])
def test_the_letters_of_an_earlier_schema_are_grouped_by_housekeeping(tmp_path, schema):
    path = tmp_path / "queue.db"
    shutil.copy(FIXTURES / f"sqlite-schema-{schema}.db", path)
    for backend in _open(path):
        assert groups(backend) == {UNNAMED: 1}
        [record] = backend.browse("t", State.DEAD, 10)
        backend.housekeep(100)
        [group] = backend.dead_groups(["t"], 10)
        assert (group.fingerprint, group.letters, group.example) == (last_of(record.reason, record.errors), 1, record.id)


def test_what_an_earlier_release_retries_deletes_and_buries_is_corrected(backend):
    retried, deleted, stays = bury(backend, 3)
    forget = "attempt = 0, dead_at = NULL, reason = NULL"
    change(
        backend,
        f"UPDATE job SET {forget}, due = 9e9 WHERE id = '{retried}'",
        f"DELETE FROM job WHERE id = '{deleted}'",
        "INSERT INTO job (seq, id, topic, rank, dead_at, reason, pushed_at, payload) VALUES "
        f"(99, 'old', 't', 0, {time.time()}, 'x', 1, '')",
    )  # fmt: skip
    backend.housekeep(100)
    assert groups(backend) == {CAUSE.id: 1, last_of("x", ()).id: 1}
    assert [record.id for record in backend.dead_in_group("t", CAUSE.id, 10)] == [stays]
    assert [record.id for record in backend.dead_in_group("t", last_of("x", ()).id, 10)] == ["old"]


def test_a_letter_that_an_earlier_release_retried_and_this_one_buries_again_is_counted_once(backend):
    bury(backend, 1)
    change(
        backend, "UPDATE job SET dead_at = NULL, reason = NULL", "INSERT INTO ready SELECT topic, rank, pushed_at, seq FROM job"
    )
    [held] = backend.reserve(["t"], 1, new_token())
    backend.settle([Settlement(held.id, held.token, Outcome.DEAD, reason="failed", fingerprint=CAUSE)], new_token())
    assert groups(backend) == {CAUSE.id: 1}


def test_rounds_of_housekeeping_look_at_all_letters(backend):
    ids = bury(backend, 250)
    change(backend, f"DELETE FROM job WHERE id IN ('{ids[0]}', '{ids[-1]}')", "DELETE FROM dead_letter WHERE seq = 120")
    for _ in range(6):
        backend.housekeep(100)
    assert sum(groups(backend).values()) >= 248
    assert (
        len(backend.dead_in_group("t", CAUSE.id, 300)) + len(backend.dead_in_group("t", last_of("failed", (ERROR,)).id, 9))
        == 248
    )


def test_counting_groups_looks_at_no_letters(backend):
    """Ten times as many letters must not make it slower; the bound is far above what it takes, and far below a scan."""

    def seconds():
        took = []
        for _ in range(20):
            began = time.perf_counter()
            assert len(backend.dead_groups(["t"], 100)) == 5
            took.append(time.perf_counter() - began)
        return min(took)

    for number in range(5):
        bury(backend, 100, Fingerprint(f"cause{number}"))
    few = seconds()
    for number in range(5):
        bury(backend, 2000, Fingerprint(f"cause{number}"))
    assert seconds() < 5 * few + 0.001
    cause = [group.fingerprint.id for group in backend.dead_groups(["t"], 1)]
    assert backend.dead_in_group("t", cause[0], 1)
