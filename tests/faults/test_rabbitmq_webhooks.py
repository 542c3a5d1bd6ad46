"""Webhooks on RabbitMQ, alone and beside a store of results: what workers tell, they tell there, too."""

from __future__ import annotations

import pytest

from ..support.project import Project
from ..support.webhooked import assert_promises, webhooked


@pytest.mark.parametrize("results", ["", '[results]\nurl = "sqlite:///results.db"'], ids=["alone", "with results"])
def test_every_event_of_a_worker_is_told_and_signed_whoever_is_killed(project: Project, rabbitmq_url: str, results: str):
    with webhooked(project, rabbitmq_url, results) as shop:
        assert_promises(shop)
