"""`jobsctl show`, `follow` and `list`: what a job has told, what has happened to it, and the jobs that one searches for."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta, timezone

import pytest

from jobs_core.backends.base import Outcome, Settlement, State
from jobs_core.backends.notes import Note
from jobs_core.cli.types import past
from jobs_core.errors import JobFailed
from jobs_core.handle import JobHandle
from jobs_core.ids import new_token
from jobs_core.units import shown_time

from ..support.project import until


@pytest.fixture
def owner(project):
    backend = project.app().new_backend()
    backend.open("the-worker")
    yield backend
    backend.close()


def encoded(**facts):
    return json.dumps(facts).encode()


def take(owner, topic="default"):
    [held] = owner.reserve([topic], 1, new_token())
    return held


def end(owner, held, outcome=Outcome.DONE, **fields):
    owner.settle([Settlement(held.id, held.token, outcome, **fields)], new_token())


def entry(**facts):
    return encoded(began=1795684000.0, ended=1795684001.5, host="web1", pid=4711, **facts)


def test_show_tells_progress_timeline_and_log(project, owner):
    job_id = project.push("note", "hello")
    held = take(owner)
    lines = (encoded(at=1795684000.0, level="info", text="begins"), encoded(at=1795684001.0, level="warning", text="\x1b[31m"))
    owner.note([Note(held.id, held.token, encoded(at=1.0, done=3, total=10, text="page 3"), lines)])
    text = project.here("show", job_id)
    assert "progress       3 of 10 (30 %) page 3" in text or "3 of 10 (30 %) page 3" in text
    assert "reserved by the-worker" in text
    assert "begins" in text
    assert "warning: \\x1b[31m" in text
    end(owner, held, Outcome.RETRY, timeline=entry(attempt=1, outcome="retry", after=5.0, error="ValueError: no"))
    text = project.here("show", job_id)
    assert "attempt 1 begins in process 4711 on web1" in text
    assert "attempt 1 ends after 1.5 s: retry, again after 5s: ValueError: no" in text
    found = json.loads(project.here("show", job_id, "--json"))
    assert found["progress"]["text"] == "page 3"
    assert [line["text"] for line in found["log"]] == ["begins", "\x1b[31m"]
    assert found["timeline"][0]["outcome"] == "retry"


def test_follow_shows_what_comes_until_the_job_has_ended(project, owner):
    job_id = project.push("note", "hello")
    held = take(owner)
    owner.note([Note(held.id, held.token, None, (encoded(at=1.0, text="first"),))])
    said: list[str] = []
    following = threading.Thread(target=lambda: said.append(project.run("follow", job_id, "--json").stdout))
    following.start()
    told = Note(held.id, held.token, encoded(at=2.0, done=1, total=2), (encoded(at=2.0, text="second"),), 1)
    owner.note([told])
    end(owner, held, result_ttl=600.0, timeline=entry(attempt=1, outcome="done"))
    following.join(60)
    told_things = [json.loads(line) for line in said[0].splitlines()]
    assert [each["text"] for each in told_things if each["what"] == "line"] == ["first", "second"]
    assert [each["done"] for each in told_things if each["what"] == "progress"] == [1]
    assert told_things[-1]["state"] == "done"


def test_follow_shows_errors_and_due_times_in_the_order_in_which_they_happened(project, owner):
    job_id = project.push("note", "hello")
    held = take(owner)
    at = owner.get(job_id).since
    owner.note([Note(held.id, held.token, encoded(at=at - 0.3, text="page 1"), (encoded(at=at - 0.2, text="a line"),))])
    error = encoded(at=at - 0.1, attempt=1, type="ValueError", message="no page 2", traceback="…")
    end(owner, held, Outcome.RETRY, after=3600.0, error=error)
    text = project.here("follow", job_id, "--for", "100ms", code=1)
    places = [text.index(part) for part in ("page 1", "a line", "attempt 1 failed: ValueError: no page 2", "[scheduled] for 2")]
    assert places == sorted(places)
    told = [json.loads(line) for line in project.here("follow", job_id, "--for", "1ms", "--json", code=1).splitlines()[:4]]
    assert [each["what"] for each in told] == ["progress", "line", "error", "state"]
    assert told[2]["message"] == "no page 2"
    assert told[3]["due"] > at + 3000


def test_follow_shows_how_runs_end_and_the_last_progress_of_a_kept_job(project, owner):
    job_id = project.push("note", "hello")
    held = take(owner)
    last = Note(held.id, held.token, encoded(at=1795684001.0, done=3, total=3))
    end(owner, held, result_ttl=600.0, notes=last, timeline=entry(attempt=1, outcome="done"))
    text = project.here("follow", job_id)
    assert text.index("3 of 3 (100 %)") < text.index("attempt 1 ends after 1.5 s: done") < text.index("[done]")


def test_follow_says_that_the_notes_of_a_job_that_is_done_are_gone(project, owner):
    job_id = project.push("note", "hello")
    held = take(owner)
    owner.note([Note(held.id, held.token, encoded(at=1.0, done=1, total=2))])
    following = project.start("follow", job_id)
    following.until_said("1 of 2")
    end(owner, held)
    following.until_said("what it told since the last look is not shown")
    assert following.wait() == 0


def test_a_run_of_no_length_has_a_readable_duration(project, owner):
    job_id = project.push("note", "hello")
    short = encoded(began=1795684000.0, ended=1795684000.00009, host="web1", pid=4711, attempt=1, outcome="retry")
    end(owner, take(owner), Outcome.RETRY, timeline=short)
    assert "ends after less than 1 ms: retry" in project.here("show", job_id)


def test_follow_ends_with_a_job_that_leaves_nothing(project, owner):
    job_id = project.push("note", "hello")
    held = take(owner)
    said: list[str] = []
    following = threading.Thread(target=lambda: said.append(project.run("follow", job_id).stdout))
    following.start()
    until(lambda: following.is_alive())
    assert "is reserved" in project.here("follow", job_id, "--for", "100ms", code=1)
    end(owner, held)
    following.join(60)
    assert not following.is_alive()


def test_a_dead_job_ends_follow_with_exit_code_one(project, owner):
    job_id = project.push("note", "hello")
    end(owner, take(owner), Outcome.DEAD, reason="failed")
    assert "[dead]: failed" in project.here("follow", job_id, code=1)


def test_list_shows_kept_jobs_newest_first(project, owner):
    ids = [project.push("note", number) for number in range(3)]
    for _ in ids:
        end(owner, take(owner), result_ttl=600.0, timeline=entry(attempt=1, outcome="done"))
    shown = [line.split("\t")[0] for line in project.here("list", "default", "--state", "done").splitlines()]
    assert shown == ids[::-1]


def test_purge_deletes_done_jobs_in_batches_and_leaves_the_queued_ones(project, owner, monkeypatch):
    monkeypatch.setattr("jobs_core.cli.topics.PURGED_AT_ONCE", 2)
    for number in range(5):
        project.push("note", number)
        end(owner, take(owner), result=b"1", result_ttl=600.0, timeline=entry(attempt=1, outcome="done"))
    queued = project.push("note", "queued")
    assert "add --state done" in project.here("purge", "default", "--older-than", "1d", "-y", code=2)
    assert "0 jobs deleted" in project.here("purge", "default", "--state", "done", "--older-than", "1d", "-y")
    assert len(project.here("list", "default", "--state", "done").splitlines()) == 5
    assert "5 jobs deleted" in project.here("purge", "default", "--state", "done", "-y")
    assert owner.browse("default", State.DONE, 10) == []
    assert [record.id for record in owner.browse("default", State.READY, 10)] == [queued]


def test_list_says_that_a_topic_keeps_no_done_jobs(project):
    hint = "topic mail keeps no done jobs in this configuration: topics.mail.keep_done"
    assert hint in project.here("list", "mail", "--state", "done")
    project.configure('[topics.mail]\nkeep_done = "1h"')
    assert hint not in project.here("list", "mail", "--state", "done")


def test_the_reason_of_a_job_that_could_not_run_is_told_once(project, owner):
    job_id = project.push("note", "hello")
    error = encoded(at=1.0, attempt=0, type="bad arguments", message="note() takes 1 argument", traceback="")
    end(owner, take(owner), Outcome.DEAD, reason="bad arguments", error=error)
    (row,) = project.here("dead", "list").splitlines()
    assert row.endswith("bad arguments\tnote() takes 1 argument")
    with pytest.raises(JobFailed, match=r"is dead \(bad arguments\): note\(\) takes 1 argument"):
        JobHandle(project.app(), job_id, None, "default", stores_result=True, created=False).result(timeout=5)


def test_list_filters_by_job_key_text_error_and_time(project, owner):
    one = project.push("note", {"order": "A-4711"}, key="acme")
    two = project.push("ledger", "other")
    for error in ("no such order", "timed out"):
        end(owner, take(owner), Outcome.DEAD, reason="failed", error=encoded(type="ValueError", message=error))

    def listed(*options):
        return [line.split("\t")[0] for line in project.here("list", "default", "--state", "dead", *options).splitlines()]

    assert listed("--job", "tasks.note") == [one]
    assert listed("--job", "note") == [one]
    assert listed("--job", "ote") == []
    assert listed("--key", "acme") == [one]
    assert listed("--text", "a-47") == [one]
    assert listed("--error", "TIMED") == [two]
    assert sorted(listed("--error", "valueerror")) == sorted([one, two])
    assert listed("--since", "2100-01-01T00:00Z") == listed("--until", "2000-01-01T00:00Z") == []
    assert sorted(listed("--since", "2000-01-01T00:00Z")) == sorted([one, two])
    assert listed("--job", "tasks.note", "--error", "timed") == []


def test_a_search_takes_durations_today_and_local_times(project, owner):
    job_id = project.push("note", "hello")
    end(owner, take(owner), Outcome.DEAD, reason="failed")
    printed = shown_time(owner.get(job_id).since)

    def listed(*options, **environment):
        return project.here("dead", "list", *options, **environment)

    for given in ("10m", "1h30m", "1d", printed, f"{printed} local"):
        assert job_id in listed("--since", given)
        assert job_id not in listed("--until", "1h")
    for wrong in ("yesterday-ish", "1x", "", "h", "2026-13-01"):
        assert "expected a time such as 1h (an hour ago), today" in project.here("dead", "list", "--since", wrong, code=2)


def test_today_begins_at_midnight_of_this_machine():
    now = datetime(2026, 11, 27, 8, 44, 7).astimezone()
    assert past("today", now) == datetime(2026, 11, 27).astimezone()
    assert past("90m", now) == now - timedelta(minutes=90)
    assert past("2026-11-27 08:44:07", now) == now
    assert past("2026-11-27T08:44:07Z", now) == datetime(2026, 11, 27, 8, 44, 7, tzinfo=timezone.utc)


def test_a_search_says_when_it_has_not_read_all(project, monkeypatch):
    from jobs_core.operating import searching

    monkeypatch.setattr(searching, "MOST", 4)
    monkeypatch.setattr(searching, "PAGE", 2)
    project.push_many([("note", (number,), {}) for number in range(5)])
    assert "only the first 4 jobs of a topic were searched: it has more in this state" in project.here(
        "list", "default", "--text", "nothing"
    )
