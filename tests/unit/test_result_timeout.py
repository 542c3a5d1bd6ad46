"""The error of a result that does not come in time says what is known of the job."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs_core import App, ResultTimeout, job
from jobs_core.backends.base import Outcome, Settlement
from jobs_core.backends.memory import MemoryBackend
from jobs_core.config import Config, Pool
from jobs_core.deadline import left
from jobs_core.errors import BackendUnavailable
from jobs_core.ids import new_token
from jobs_core.supervisor.pidfile import PidFile
from jobs_core.unfinished import no_supervisor


def _add() -> int:
    return 1


@contextlib.contextmanager
def supervised(run_dir: Path) -> Iterator[None]:
    held = PidFile(run_dir)
    yield
    held.close()


@pytest.fixture
def add(registry, app):
    @job(name="tasks.add", registry=registry, store_result=True)
    def add() -> int:
        return 1

    return add


def nothing(app, handle):
    pass


def unserved(app, handle):
    app.config = Config(backend=app.config.backend, pools={"mail": Pool(topics=["mail"])})


def paused(app, handle):
    app.operate(lambda backend: backend.pause("default"))


def running(app, handle):
    taker = MemoryBackend(app.backend_url, app.backend_options())
    taker.open("host-1")
    taker.reserve(["default"], 1, new_token())


@pytest.mark.parametrize(
    ("before", "delay", "situation", "says"),
    [
        (0, 0, nothing, ": it is ready and next in line. `jobsctl why {id}` tells more"),
        (0, 0, unserved, ": no pool of this configuration serves topic default: add it to the topics of a pool; it is ready"),
        (0, 0, paused, ": topic default is paused: run `jobsctl resume default`; it is ready and next in line"),
        (40, 0, nothing, ": it is ready with 40 jobs ahead of it. "),
        (120, 0, nothing, ": it is ready with more than 100 jobs ahead of it. "),
        (0, 0, running, ": it has been reserved by worker host-1 since "),
        (0, 60, nothing, ": it is scheduled for "),
    ],
)
def test_the_timeout_reports_the_known_facts_about_the_job(app, add, before, delay, situation, says):
    add.enqueue_many([()] * before)
    handle = add.using(delay=delay).enqueue()
    situation(app, handle)
    with pytest.raises(ResultTimeout) as failed:
        handle.result(timeout=0.01)
    text = str(failed.value)
    assert text.startswith(f"job {handle.id} has not ended within 0.01 s: ")
    assert says.format(id=handle.id) in text


def test_a_missing_local_supervisor_is_reported_with_the_shared_queue(registry, tmp_path):
    app = App(Config(backend=f"sqlite:///{tmp_path}/queue.db", base_dir=tmp_path), registry=registry)
    handle = app.enqueue(job(name="tasks.add", registry=registry, store_result=True)(_add).call())
    says = f"no supervisor is running on this machine in {tmp_path / '.jobs'}: `jobsctl start` starts it; it is ready"
    with pytest.raises(ResultTimeout, match=re.escape(says)):
        handle.result(timeout=0.01)
    (tmp_path / ".jobs").mkdir(mode=0o700)
    with supervised(tmp_path / ".jobs"), pytest.raises(ResultTimeout, match="within 0.01 s: it is ready"):
        handle.result(timeout=0.01)
    app.close()
    shared = App(Config(backend="redis://127.0.0.1:1/0", base_dir=tmp_path), registry=registry)
    told = no_supervisor(shared.run_dir, shared.backend_url)
    assert told.endswith("starts it, unless workers on another machine do the work")


def test_a_backend_that_fails_meanwhile_makes_the_error_no_other(app, add, monkeypatch):
    handle = add.enqueue()

    def away(self, job_id):
        assert left(60.0) < 1.0, "a server that hangs makes the error no more than half a second later"
        raise BackendUnavailable("away")

    monkeypatch.setattr(MemoryBackend, "get", away)
    monkeypatch.setattr(MemoryBackend, "fetch_result", lambda self, job_id, timeout: None)
    with pytest.raises(ResultTimeout, match=r"has not ended within 0 s$"):
        handle.result(timeout=0)
    assert left(60.0) == 60.0


def test_a_result_in_time_costs_nothing_extra(app, add, monkeypatch):
    handle = add.enqueue()
    taker = MemoryBackend(app.backend_url, app.backend_options())
    taker.open("host-1")
    [delivery] = taker.reserve(["default"], 1, new_token())
    done = Settlement(handle.id, delivery.token, Outcome.DONE, result=b'{"value": 7}', result_ttl=60.0)
    taker.settle([done], new_token())
    monkeypatch.setattr("jobs_core.app.results.Results._explain_timeout", None)
    assert handle.result(timeout=1) == 7


@pytest.mark.parametrize("timeout", [0, 0.01, -1, "10ms", dt.timedelta(milliseconds=10)])
def test_a_timeout_is_a_duration_as_anywhere_else(add, timeout):
    with pytest.raises(ResultTimeout):
        add.enqueue().result(timeout=timeout)


@pytest.mark.parametrize("timeout", ["soon", "5 minutes", [], dt.timedelta(seconds=-1)])
def test_a_timeout_that_is_not_a_duration_is_refused_with_an_example(add, timeout):
    with pytest.raises(ValueError, match="expected a duration"):
        add.enqueue().result(timeout=timeout)
