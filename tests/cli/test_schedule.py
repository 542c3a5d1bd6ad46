"""`jobsctl schedule`, and the report of `jobsctl check` on the schedule."""

from __future__ import annotations

import json
import time
from datetime import datetime

import pytest

from .test_commands import said

SCHEDULE = """
[schedule.nightly]
job = "tasks.add"
cron = "30 2 * * *"
tz = "Europe/Berlin"
args = [1]
missed = "skip"
[schedule.often]
job = "tasks.note"
every = "5m"
"""


def test_next_runs_are_shown_in_their_zone_and_in_utc(project):
    project.configure(SCHEDULE)
    rows = [line.split("\t") for line in said(project.run("schedule", "-n", "3")).splitlines()]
    assert [row[:4] for row in rows] == [["nightly", "tasks.add", "30 2 * * *", "Europe/Berlin"]] * 3 + [
        ["often", "tasks.note", "every 5m", "UTC"]
    ] * 3
    assert all("02:30:00 CE" in row[4] or "03:00:00 CEST" in row[4] for row in rows[:3])
    assert all(row[4] == row[5] for row in rows[3:])


def test_json_has_everything(project):
    project.configure(SCHEDULE)
    nightly, often = json.loads(said(project.run("schedule", "--json", "-n", "2")))
    assert (nightly["job"], nightly["cron"], nightly["tz"], nightly["args"], nightly["missed"]) == (
        "tasks.add", "30 2 * * *", "Europe/Berlin", [1], "skip",
    )  # fmt: skip
    for run in (*nightly["next"], *often["next"]):
        assert datetime.fromisoformat(run["local"]) == datetime.fromisoformat(run["utc"])
        assert datetime.fromisoformat(run["utc"]).timestamp() == run["at"] > time.time() - 60
    assert often["next"][1]["at"] - often["next"][0]["at"] == often["every"] == 300


def test_an_empty_schedule_prints_nothing_into_a_pipe(project):
    assert said(project.run("schedule")) == ""


def test_check_names_what_is_scheduled(project):
    project.configure(SCHEDULE)
    assert "schedule      2 entries: nightly (30 2 * * *), often (every 5m)" in said(project.run("check"))


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ('cron = "x"', 'schedule.bad: invalid cron expression "x"'),
        ('cron = "0 0 * * *"\ntz = "Mars"', 'schedule.bad: "Mars" is not a time zone'),
        ('every = "1m"\nargs = [1, 2, 3]', "schedule.bad: "),
    ],
)
def test_check_and_schedule_name_what_is_wrong(project, entry, says):
    project.configure(f'[schedule.bad]\njob = "tasks.note"\n{entry}')
    assert says in said(project.run("check"), 2)
    assert says in said(project.run("schedule"), 2)


def test_check_names_the_nearest_job(project):
    project.configure('[schedule.bad]\njob = "tasks.noet"\nevery = "1m"')
    assert "schedule.bad: job: no job named 'tasks.noet' is registered here; the nearest names are tasks.note" in said(
        project.run("check"), 2
    )


# -- changes at run time ---------------------------------------------------------------------------


def test_an_entry_is_added_listed_run_paused_resumed_and_removed(project):
    said(project.run("schedule", "add", "mine", "tasks.add", "1", "--kw", "b=2", "--every", "5m", "--topic", "t"))
    (row,) = [line.split("\t") for line in said(project.run("schedule")).splitlines()]
    assert (row[:4], row[6]) == (["mine", "tasks.add", "every 5m", "UTC"], "run time")
    (job_id,) = project.run("schedule", "run", "mine").stdout.split()
    assert json.loads(said(project.run("show", job_id, "--json")))["topic"] == "t"
    assert "jobsctl schedule resume mine" in said(project.run("schedule", "pause", "mine"))
    (data,) = json.loads(said(project.run("schedule", "list", "--json")))
    assert (data["paused"], data["run_time"], data["args"], data["kwargs"], data["topic"], data["next"]) == (
        True, True, [1], {"b": 2}, "t", [],
    )  # fmt: skip
    assert data["by"]
    said(project.run("schedule", "resume", "mine"))
    said(project.run("schedule", "remove", "mine"))
    assert said(project.run("schedule")) == ""


def test_a_replaced_entry_that_is_paused_is_said_to_stay_paused(project):
    add = ["schedule", "add", "mine", "tasks.add", "1", "--every", "5m"]
    said(project.run(*add))
    assert "exists already: remove it first, or replace it (--replace, replace=True)" in said(project.run(*add), 2)
    assert "added; machines take it over" in said(project.run(*add, "--replace"))
    said(project.run("schedule", "pause", "mine"))
    assert "mine: added; it stays paused, until `jobsctl schedule resume mine`" in said(project.run(*add, "--replace"))


def test_an_entry_of_the_configuration_is_paused_but_not_removed(project):
    project.configure(SCHEDULE)
    said(project.run("schedule", "pause", "nightly"))
    paused, often = [line.split("\t") for line in said(project.run("schedule")).splitlines()]
    assert paused[4:6] == ["", ""]
    assert paused[6].startswith("paused by ")
    assert often[6] == ""
    done = project.run("schedule", "remove", "nightly")
    assert done.returncode == 1
    assert "was not made at run time: it is in the code or the configuration" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pause", "unknown"], "there is no schedule entry unknown: `jobsctl schedule` lists them"),
        (["add", "x", "tasks.add", "1"], "give either cron or every"),
        (["add", "x", "tasks.add", "1", "--cron", "nonsense"], 'invalid cron expression "nonsense"'),
        (["add", "x", "tasks.unknown", "--every", "5m"], "no job named 'tasks.unknown'"),
        (["add", "x", "tasks.add", "1", "--every", "5m", "--tz", "Europe/Berlin"], "tz belongs to cron"),
        (["add", "x\n", "tasks.add", "1", "--every", "5m"], "control character"),
    ],
)
def test_a_change_that_cannot_be_made_is_named(project, arguments, says):
    done = project.run("schedule", *arguments)
    assert done.returncode == (2 if arguments[0] == "add" else 1)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
