"""Webhooks on every backend that has all they need: nothing is lost, whoever is killed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs_core.testing.services.broker import BrokerService
from jobs_core.testing.services.postgres import PostgresServer
from jobs_core.testing.services.redis import RedisServer

from ..support.project import Project
from ..support.webhooked import Webhooked, assert_killed_between, assert_promises, webhooked


@pytest.fixture(params=["sqlite", "redis", "postgres", "zeromq"])
def shop(request: pytest.FixtureRequest, project: Project, tmp_path: Path) -> Iterator[Webhooked]:
    with contextlib.ExitStack() as stack:
        url = "sqlite:///queue.db"
        if request.param == "redis":
            url = f"redis://127.0.0.1:{stack.enter_context(RedisServer(tmp_path / 'redis')).port}"
        elif request.param == "postgres":
            url = stack.enter_context(PostgresServer("-c", "fsync=off")).url
        elif request.param == "zeromq":
            broker = BrokerService(tmp_path / "broker")
            broker.start()
            stack.callback(broker.stop)
            url = broker.url
        made = stack.enter_context(webhooked(project, url))
        if request.param == "postgres":
            assert project.run("setup").returncode == 0
        yield made


def test_every_event_is_told_and_signed_whoever_is_killed(shop: Webhooked):
    assert_promises(shop)


def test_a_housekeeper_that_is_killed_around_its_push_loses_nothing_and_tells_nothing_twice(shop: Webhooked):
    assert_killed_between(shop)
