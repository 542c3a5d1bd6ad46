"""Finished jobs are logged on request, with their durations; level debug logs each step."""

from __future__ import annotations

import asyncio
import re
import time

import pytest

from jobs_core import Retry, current_job, job, logs
from jobs_core.config import Config, Logs, Pool
from jobs_core.errors import ConfigError
from jobs_core.supervisor.__main__ import _Source
from jobs_core.worker.main import Worker

SLOWEST = 0.02


@pytest.fixture
def drain(app, registry, monkeypatch):
    """Enqueue jobs with every kind of end, have a worker run them, and return the lines of its log by level."""

    monkeypatch.setattr("jobs_core.worker.reservations.AHEAD", 60.0)  # so that no job waits long, however slow the machine is

    @job(name="tasks.fine", registry=registry)
    def fine():
        time.sleep(SLOWEST)

    @job(name="tasks.slow", registry=registry)
    async def slow():
        await asyncio.sleep(SLOWEST)

    @job(name="tasks.early", registry=registry, acks="early")
    def early(): ...

    @job(name="tasks.again", registry=registry, backoff=0.001)
    def again():
        if current_job().attempt == 1:
            raise Retry(delay=0.001)

    @job(name="tasks.bad", registry=registry, retries=0)
    def bad():
        raise ValueError("no")

    def drain(mode, level, **settings):
        app.config = Config(backend=app.config.backend, logs=Logs(**settings))
        ids = {each.name: each.enqueue().id for each in (fine, slow, early, again, bad)}
        lines = []
        logs.to_function(level, "text", lambda line: lines.append(line.decode()))
        Worker(app, "p", Pool(mode=mode, concurrency=2), None, drain=True).run()
        told = [re.sub(r"^.*? (DEBUG|INFO|WARNING|ERROR) +\[.*?\] ", r"\1 ", line) for line in lines]
        for name, job_id in ids.items():
            told = [line.replace(f"{name} {job_id}", name) for line in told]
        return told

    return drain


DONE = re.compile(r"INFO (tasks\.\w+) in topic default finished in ([0-9.]+)(ms|s)(, attempt 2)?\n")


@pytest.mark.parametrize("mode", ["sync", "threads", "async"])
def test_each_job_that_is_done_has_a_line_with_its_duration(drain, mode):
    told = [match for line in drain(mode, "info", done=True) if (match := DONE.fullmatch(line))]
    assert {match[1] for match in told} == {"tasks.fine", "tasks.slow", "tasks.early", "tasks.again"}
    assert len(told) == 4, "once each; one that failed is told as before"
    assert {match[1] for match in told if match[4]} == {"tasks.again"}
    for match in told:
        if match[1] in ("tasks.fine", "tasks.slow"):
            assert float(match[2]) * {"ms": 0.001, "s": 1.0}[match[3]] >= SLOWEST


@pytest.mark.parametrize("settings", [{}, {"done": False}])
def test_other_settings_log_no_successful_jobs(drain, settings):
    assert not [line for line in drain("sync", "info", **settings) if "is done" in line or "taken" in line]


def test_level_debug_tells_which_jobs_are_taken_and_settled(drain):
    told = drain("sync", "debug")
    for name in ("fine", "slow", "early", "bad"):
        assert told.count(f"DEBUG tasks.{name} in topic default was reserved, attempt 1\n") == 1
    assert "DEBUG tasks.again in topic default was reserved, attempt 2\n" in told
    for name, how in (("fine", "done"), ("early", "done"), ("again", "retry"), ("again", "done"), ("bad", "dead")):
        assert f"DEBUG tasks.{name} was settled as {how}\n" in told


def test_no_fields_of_a_job_are_read_for_a_disabled_log_level(drain, monkeypatch):
    for event in ("JobDone", "JobTaken", "JobSettled"):
        monkeypatch.setattr(f"jobs_core.events.{event}", None)
    drain("sync", "info")


@pytest.mark.parametrize(
    ("developing", "toml", "done"),
    [
        (False, "", None),
        (True, "", True),
        (True, "[logs]\ndone = false", False),
        (True, '[logs]\nlevel = "warning"', True),  # which shows none, and refuses nothing
        (False, "[logs]\ndone = true", True),
    ],
)
def test_development_mode_shows_them_unless_the_file_says_otherwise(project, monkeypatch, developing, toml, done):
    monkeypatch.chdir(project.root)
    monkeypatch.delenv("PWD", raising=False)
    monkeypatch.setenv("JOBS_CONFIG", "")
    monkeypatch.syspath_prepend(str(project.root))
    project.configure(toml)
    assert _Source(None, developing=developing).load().config.logs.done is done


def test_lines_that_the_level_leaves_out_are_refused(project):
    project.configure('[logs]\nlevel = "warning"\ndone = true')
    with pytest.raises(ConfigError, match=r"logs.done: its lines have level info, and logs.level = .warning. leaves them out"):
        project.app()
