"""The helpers that tests of the backend alone share."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from tests.support.proxy import Proxy

from jobs_core.backends.base import Outcome, Outgoing, Settlement
from jobs_core.ids import new_id, new_token
from jobs_core.testing.contract.rig import Outage
from jobs_core.testing.services import free_port

TOPIC = "t"


class OnRabbitMQ:
    """A base for contract classes: the node of the test run, with quorum queues."""

    hands_out_at_once = True

    @pytest.fixture
    def backend_url(self, rabbitmq_url):
        return rabbitmq_url

    @pytest.fixture
    def outage(self, rabbitmq_url):
        server = urlsplit(rabbitmq_url)
        with Proxy(server.port) as proxy:
            url = rabbitmq_url.replace(f":{server.port}/", f":{proxy.port}/")
            yield Outage(f"{url}?prefix=outage-{new_token()}", proxy.refuse, proxy.accept)

    @pytest.fixture
    def unreachable_url(self):
        return f"amqp://guest:guest@127.0.0.1:{free_port()}/"


def jobs(count=1, **options):
    return [Outgoing(new_id(), TOPIC, b"{}", **options) for _ in range(count)]


def drained(backend, expected):
    """Return ids in the order of delivery, until a short wait finds no more than those that are expected."""
    ids = []
    while True:
        deliveries = backend.reserve([TOPIC], 100, new_token())
        if not deliveries and not backend.wait([TOPIC], 0.5 if len(ids) >= expected else 60.0):
            return ids
        ids += [delivery.id for delivery in deliveries]
        backend.settle([Settlement(delivery.id, delivery.token, Outcome.DONE) for delivery in deliveries], new_token())
