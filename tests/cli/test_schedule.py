"""`jobsctl schedule`, and the report of `jobsctl check` on the schedule."""

from __future__ import annotations

import json
import time
from datetime import datetime

import pytest

from jobs_core import App, Config
from jobs_core.ids import new_token
from jobs_core.schedule.stored import StoredEntry
from jobs_core.sealed import seal

from ..support.project import until
from ..support.supervised import Supervised
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


KEYS = "signing_keys = ['a:0123456789_0123456789_0123456789']\n"


def store(project, kind, name, body):
    """Write a document without keys, perhaps over another one."""
    app = App(Config(backend=f"sqlite:///{project.root / 'queue.db'}"))
    app.operate(lambda backend: backend.put_document(kind, name, seal(app.signer, kind, name, body), new_token()))
    app.close()


def test_an_entry_that_was_overwritten_without_the_keys_is_told_by_schedule_check_and_status(project):
    project.configure(KEYS + SCHEDULE)
    project.here("schedule", "add", "mine", "tasks.note", "x", "--every", "1h")
    store(project, "schedule", "mine", StoredEntry(job="tasks.note", every=60.0))
    store(project, "schedule", "often", StoredEntry(paused=True))
    telling = "schedule entry {0}: its document in the backend is refused: the document is not signed"
    shown = project.here("schedule")
    assert telling.format("mine") in shown
    assert "`jobsctl schedule remove mine` deletes the document" in shown
    assert [row.split("\t")[-1] for row in shown.splitlines() if row.startswith("often\t")] == ["refused"]
    listed = {entry["name"]: entry["refused"] for entry in json.loads(project.run("schedule", "--json").stdout)}
    assert listed["nightly"] is None
    assert "not signed" in listed["often"]
    checked = said(project.run("check"))
    assert all(telling.format(name) in checked for name in ("mine", "often"))
    supervised = Supervised(project)
    until(lambda: (backlog := supervised.board().backlog) and backlog.refused_entries)
    status = project.here("status")
    assert all(telling.format(name) in status for name in ("mine", "often"))
    for name in ("mine", "often"):
        project.here("schedule", "remove", name)
    until(lambda: (backlog := supervised.board().backlog) and not backlog.refused_entries)
    assert "refused" not in project.here("status")
    supervised.stop()


def test_the_size_of_a_pool_that_was_set_without_the_keys_is_told_and_deleted(project):
    project.configure(KEYS)
    store(project, "pool-size", "web1/default", {"workers": 5})
    supervised = Supervised(project)
    until(lambda: (backlog := supervised.board().backlog) and backlog.refused_sizes)
    telling = "pool default: its size on web1 in the backend is refused: the document is not signed"
    assert telling in project.here("status")
    assert telling in said(project.run("check"))
    project.here("machines", "auto", "default", "--all")
    assert telling not in said(project.run("check"))
    supervised.stop()


def test_an_entry_that_machines_refuse_for_another_reason_is_told(project):
    project.configure(SCHEDULE)
    store(project, "schedule", "gone", StoredEntry(job="tasks.gone", every=60.0))
    store(project, "schedule", "often", StoredEntry(job="tasks.note", every=60.0))
    shown = project.here("schedule")
    assert "schedule entry gone: its document in the backend is refused" in shown
    assert "schedule entry often: its document in the backend is refused: code or configuration has an entry" in shown
    assert "schedule entry gone: its document in the backend is refused" in said(project.run("check"))
