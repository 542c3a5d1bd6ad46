"""Real supervisors and workers report to another process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.project import Project
from tests.support.stopwatch import Stopwatch

RECEIVER = Path(__file__).with_name("receiver.py")
TASKS = """
import os
import sys
from pathlib import Path
from jobs_core import job

for name in ("celery", "django", "fastapi", "flask", "sqlalchemy", "starlette"):
    sys.modules[name] = None  # Sentry would import all of them to integrate them, a second of CPU time in each process

@job(retries=0)
def fails(secret: str = ""):
    raise ValueError("no")

@job(retries=0)
async def afails():
    raise LookupError("no")

@job(retries=0, timeout=0.3)
def endless():
    while True:
        pass

@job(retries=0)
def crashes():
    os._exit(3)

@job
def ticks():
    Path("ticked").touch()
"""


@pytest.fixture
def project(tmp_path) -> Iterator[Project]:
    made = Project(tmp_path / "project", TASKS)
    yield made
    made.close()


@pytest.fixture
def sent(project):
    """Return a function that lists what Sentry was sent, of one kind; its `port` is where it listens."""
    file = project.root / "sent"
    receiver = project.start_python(str(RECEIVER), str(file))

    def sent(kind: str) -> list[dict]:
        lines = file.read_text().splitlines() if file.exists() else []
        return [item for item in map(json.loads, lines) if item["type"] == kind or (kind, item["type"]) == ("event", "error")]

    sent.dsn = f"http://public@127.0.0.1:{receiver.until_said('listens at ').rpartition(' ')[2]}/1"
    return sent


@pytest.mark.parametrize("mode", ["sync", "threads", "async"])
def test_a_worker_sends_the_errors_of_its_jobs_before_it_ends(project, sent, mode):
    project.configure(f'[plugins.sentry]\n[pools.default]\nworkers = 1\nmode = "{mode}"\n')
    project.start("start", SENTRY_DSN=sent.dsn).until_said(" ready: ")
    kinds = {"fails": "ValueError", "afails": "LookupError"} | ({"endless": "JobTimeout"} if mode == "sync" else {})
    ids = {project.push(name): kind for name, kind in kinds.items()}
    project.until(lambda: len(project.dead()) == len(ids))
    project.here("stop")
    events = {event["contexts"]["job"]["id"]: event for event in sent("event")}
    assert {each: event["exception"]["values"][-1]["type"] for each, event in events.items()} == ids
    assert {event["contexts"]["job"]["pool"] for event in events.values()} == {"default"}


def test_a_crashed_worker_is_reported_by_the_housekeeper(project, sent):
    project.configure("[plugins.sentry]\n[pools.default]\nworkers = 1\n")
    project.start("start", SENTRY_DSN=sent.dsn).until_said(" ready: ")
    project.push("crashes")
    project.until(lambda: sent("event"))
    project.here("stop")
    crash = sent("event")[0]
    assert crash["message"] == "a worker of pool default crashed"
    assert crash["contexts"]["worker"]["exit_code"] == "3"


def test_a_job_of_the_schedule_checks_in(project, sent):
    project.configure('[plugins.sentry]\nmonitors = true\n[schedule.Nightly]\njob = "tasks.ticks"\nevery = "1s"\n')
    project.start("start", SENTRY_DSN=sent.dsn).until_said(" ready: ")
    project.until((project.root / "ticked").exists)
    project.here("stop")
    check_ins = sent("check_in")
    assert {each["monitor_slug"] for each in check_ins} == {"nightly"}
    begun = [each["check_in_id"] for each in check_ins if each["status"] == "in_progress"]
    assert begun
    assert sorted(begun) == sorted(each["check_in_id"] for each in check_ins if each["status"] == "ok")


def test_a_sentry_that_hangs_delays_a_stop_by_no_more_than_flush_timeout(project):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts, and never answers
        project.configure("[plugins.sentry]\nflush_timeout = 1\n[pools.default]\nworkers = 1\n")
        dsn = f"http://public@127.0.0.1:{silent.getsockname()[1]}/1"
        supervisor = project.start("start", SENTRY_DSN=dsn)
        supervisor.until_said(" ready: ")
        project.push("fails")
        project.until(project.dead)
        watch = Stopwatch()
        assert supervisor.stop() == 0
        assert watch.stop() < 15, supervisor.output
    assert "killed" not in supervisor.output


@pytest.mark.parametrize(
    ("dsn", "code", "told"),
    [
        (None, "", "SENTRY_DSN is not set here, and the application has not called sentry_sdk.init"),
        ("https://hidden-key@", "", "SENTRY_DSN is not an address of Sentry: Missing hostname"),
        ("http://public@127.0.0.1:9/1", "", ""),
        (None, "import sentry_sdk\nsentry_sdk.init('http://public@127.0.0.1:9/1')\n", ""),
    ],
    ids=["missing", "wrong", "in the environment", "in the code"],
)
def test_check_says_if_nothing_would_be_sent(project, dsn, code, told):
    project.configure("[plugins.sentry]\n")
    if code:
        (project.root / "tasks.py").write_text(code + TASKS)
    done = project.run("check", **({"SENTRY_DSN": dsn} if dsn else {}))
    assert done.returncode == 0, "a warning is no failure"
    assert told in done.stdout
    assert ("nothing is sent to Sentry" in done.stdout) is bool(told)
    assert "hidden-key" not in done.stdout + done.stderr
