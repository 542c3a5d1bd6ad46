"""`jobsctl dead show` and `show` print as text all that they print as JSON, and attempts are counted alike everywhere."""

from __future__ import annotations

import json
import re

import pytest

from jobs_core.backends.base import Outcome, Settlement
from jobs_core.ids import new_token

AT = 1795684000.0
FAILED = {"at": AT, "attempt": 1, "type": "ValueError", "message": "no such order", "host": "web1", "pid": 4711,
          "traceback": 'Traceback (most recent call last):\n  File "shop.py", line 3\nValueError: no such order'}  # fmt: skip
DIED = {"at": AT, "type": "WorkerDied", "message": "killed by SIGKILL (worker web1-9, process 9, peak memory 512 MB)",
        "traceback": "Current thread 0x1 (most recent call first):\n  File shop.py line 7", "signal": "SIGKILL",
        "exit_code": None, "peak_memory": 512_000_000, "log": ["the last but one", "the last line"], "host": "web1",
        "pid": 12}  # fmt: skip
ENDED = {**DIED, "message": "exit code 0", "signal": "", "exit_code": 0, "peak_memory": 0, "log": [], "traceback": ""}
UNRUN = {"at": AT, "attempt": 0, "type": "expired", "message": "not started within 5 s", "traceback": "", "host": "web1",
         "pid": 3}  # fmt: skip
FOREIGN = {"type": "E", "message": "x", "code": {"deep": [1, "odd"]}}


def bury(project, *errors, topic="default"):
    """Create a dead letter with this history; return its id."""
    job_id = project.push("note", "hello", topic=topic, kwargs={"more": "of it"}, priority=3)
    backend = project.app().new_backend()
    backend.open("taker")
    for error in errors[:-1]:
        [held] = backend.reserve([topic], 1, new_token())
        backend.settle([Settlement(job_id, held.token, Outcome.RETRY, error=json.dumps(error).encode())], new_token())
    [held] = backend.reserve([topic], 1, new_token())
    ending = Settlement(job_id, held.token, Outcome.DEAD, reason="failed", error=json.dumps(errors[-1]).encode())
    backend.settle([ending], new_token())
    backend.close()
    return job_id


def leaves(value):
    """Return every value in a JSON document, without the names of its keys."""
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() if key not in ("at", "enqueued_at", "v") for leaf in leaves(inner)]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in leaves(inner)]
    return [] if value in (None, "", False) else [line.strip() for line in str(value).splitlines()]


@pytest.mark.parametrize("command", [["dead", "show"], ["show"]])
@pytest.mark.parametrize(
    "history", [[FAILED], [DIED], [ENDED], [UNRUN], [FOREIGN], [FAILED, DIED, UNRUN]], ids=lambda errors: str(len(errors))
)
def test_text_output_contains_all_facts_of_json(project, command, history):
    job_id = bury(project, *history)
    text = project.here(*command, job_id)
    found = json.loads(project.here(*command, job_id, "--json"))
    missing = [leaf for leaf in leaves(found) if leaf not in text and leaf != "512000000"]
    assert missing == [], text


def test_facts_about_a_dead_worker_are_shown_before_its_stack(project):
    text = project.here("dead", "show", bury(project, DIED))
    told = ["a worker died, reported by process 12 on web1", "killed by SIGKILL", "signal: SIGKILL", "peak memory: 512 MB",
            "its last log lines:", "the last but one", "the last line", "Current thread"]  # fmt: skip
    places = [text.index(part) for part in told]
    assert places == sorted(places), text
    assert "exit code: 0" in project.here("dead", "show", bury(project, ENDED, topic="other"))


@pytest.mark.parametrize("ended", [1, 2, 5])
def test_attempts_are_the_same_number_everywhere(project, ended):
    job_id = bury(project, *[{**FAILED, "attempt": number + 1} for number in range(ended)])
    [listed] = [line.split("\t") for line in project.here("list", "default", "--state", "dead").splitlines()]
    [dead] = [line.split("\t") for line in project.here("dead", "list").splitlines()]
    shown = project.here("dead", "show", job_id)
    assert (listed[3], dead[4]) == (str(ended), str(ended))
    assert re.search(rf"^attempt +{ended}$", shown, re.MULTILINE), shown
    assert len(re.findall(r":\d\d attempt \d+, process", shown)) == ended
    assert f" attempt {ended}, process 4711 on web1" in shown
    assert f"{ended} earlier attempt{'s have' if ended > 1 else ' has'} ended" in project.here("why", job_id)
    assert json.loads(project.here("dead", "show", job_id, "--json"))["attempt"] == ended


@pytest.mark.parametrize("state", ["ready", "scheduled", "reserved"])
def test_the_attempt_of_a_job_that_has_not_ended_is_the_one_that_runs_or_comes_next(project, state):
    job_id = project.push("note", "x")
    backend = project.app().new_backend()
    backend.open("taker")
    [held] = backend.reserve(["default"], 1, new_token())
    after = 60.0 if state == "scheduled" else 0.0
    ending = Settlement(job_id, held.token, Outcome.RETRY, after=after, error=json.dumps(FAILED).encode())
    backend.settle([ending], new_token())
    if state == "reserved":
        backend.reserve(["default"], 1, new_token())
    [listed] = [line.split("\t") for line in project.here("list", "default", "--state", state).splitlines()]
    assert listed[3] == "2"
    assert re.search(r"^attempt +2$", project.here("show", job_id), re.MULTILINE)
    assert json.loads(project.here("show", job_id, "--json"))["attempt"] == 2
    backend.close()


# -- ids that are not found ----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["dead retry", "dead drop --yes", "dead show", "show", "why", "result", "cancel", "stack"])
def test_every_command_that_takes_ids_names_the_one_that_is_not_found(project, command):
    text = project.here(*command.split(), "nosuch", code=2 if command == "stack" else 1)
    assert "nosuch" in text


@pytest.mark.parametrize(
    ("command", "says"), [("dead retry", "1 job is ready again"), ("dead drop --yes", "1 dead letter deleted")]
)
def test_ids_that_are_not_dead_letters_are_named_with_their_state(project, command, says):
    dead, waiting = bury(project, FAILED), project.push("note", "x")
    text = project.here(*command.split(), "nosuch", dead, waiting, dead, code=1)
    assert text.splitlines() == [
        says,
        "jobs: nosuch is not in the dead letters: unknown job",
        f"jobs: {waiting} is not in the dead letters: it is ready",
    ]


def test_where_single_jobs_cannot_be_looked_up_they_are_named_too(project, monkeypatch):
    from jobs_core.backends.sqlite import SqliteBackend
    from jobs_core.errors import NotSupported

    def unable(self, job_id):
        raise NotSupported("lookup", "sqlite://")

    monkeypatch.setattr(SqliteBackend, "features", SqliteBackend.features - {"lookup"})
    monkeypatch.setattr(SqliteBackend, "get", unable)
    for command in (["dead", "retry"], ["dead", "drop", "--yes"]):
        assert "jobs: nosuch is not in the dead letters\n" in project.here(*command, "nosuch", code=1)
    assert "nosuch is not among the 1,000 newest dead letters of each topic" in project.here("dead", "show", "nosuch", code=1)
    dead = bury(project, FAILED)
    assert dead in project.here("dead", "show", dead)
