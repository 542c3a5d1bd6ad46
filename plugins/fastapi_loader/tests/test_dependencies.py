"""The dependencies of endpoints, in tests of applications and with several applications."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from starlette.requests import HTTPConnection

from jobs_core import ArgumentError, current_app, job
from jobs_core.testing import JobsQueue
from jobs_fastapi import Background, JobsFastAPI, jobs_app


@job(name="fastapi-note")
def note(text: str) -> None: ...


def tied(url):
    app = FastAPI()
    JobsFastAPI(app, settings={"backend": url})
    return app


def connection(app):
    return HTTPConnection({"type": "http", "app": app})


def test_each_application_enqueues_with_its_own_configuration():
    one, other = tied("memory://one"), tied("memory://other")
    assert jobs_app(connection(one)).config.backend == "memory://one"
    assert jobs_app(connection(other)).config.backend == "memory://other"
    assert jobs_app(connection(FastAPI())) is current_app()


def test_a_tests_own_queue_gets_the_jobs_of_endpoints():
    app = tied("memory://real")
    with JobsQueue() as queue:
        assert jobs_app(connection(app)) is queue.app
        background = Background()
        background.add(note, "x")
        background.send(jobs_app(connection(app)))
        queue.assert_enqueued(note, "x")
    assert jobs_app(connection(app)).config.backend == "memory://real"


def test_arguments_are_checked_where_a_job_is_added():
    with pytest.raises(ArgumentError, match="text"):
        Background().add(note, 5)
