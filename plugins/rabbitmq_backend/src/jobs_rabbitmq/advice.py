"""Risks in a broker's configuration, each with its fix."""

from __future__ import annotations

from collections.abc import Iterator

from jobs_core.backend_kit import is_loopback
from jobs_core.backends.base import BackendOptions

from .topology import OWN_CONSUMER_TIMEOUT, version
from .transport import BrokerConnection
from .url import Target

OLDEST = (3, 10)
CONSUMER_TIMEOUT = 1800.0
"""The broker's default since RabbitMQ 3.8.17, in seconds."""


def advice(target: Target, options: BackendOptions, connection: BrokerConnection) -> list[str]:
    """Return the risks, for `jobsctl check`."""
    return [*_version(connection), *_consumer_timeout(target, options, connection), *_queues(target), *_access(target)]


def _version(connection: BrokerConnection) -> Iterator[str]:
    found = version(connection)
    if (0, 0) < found < OLDEST:
        yield (
            f"RabbitMQ {found[0]}.{found[1]} is older than 3.10, the first release whose quorum queues do not lose dead "
            "messages: upgrade it"
        )


def _consumer_timeout(target: Target, options: BackendOptions, connection: BrokerConnection) -> Iterator[str]:
    """Check the consumer timeout.

    A client cannot ask the broker for its value: the default is assumed, unless the URL states another.
    """
    if version(connection) >= OWN_CONSUMER_TIMEOUT and target.queues == "quorum" and target.consumer_timeout is None:
        return  # our queues set their own consumer timeout
    limit = CONSUMER_TIMEOUT if target.consumer_timeout is None else target.consumer_timeout
    longest = options.longest_run()
    if longest is not None and longest < limit:
        return
    jobs = "jobs without a timeout may run for longer" if longest is None else f"the longest job may run for {longest:g} s"
    wanted = 86_400 if longest is None else max(3600, round(2 * longest))
    yield (
        f"consumer_timeout is {limit:g} s{'' if target.consumer_timeout else ' unless it is set'}, and {jobs}: the broker "
        f"would then close the channel, and the job would run again. Write `consumer_timeout = {wanted * 1000}` into "
        f"rabbitmq.conf and declare it with ?consumer_timeout={wanted} in the URL"
    )


def _queues(target: Target) -> Iterator[str]:
    if target.queues == "classic":
        yield "classic queues can lose delayed and dead jobs when a node dies, and are on one node only: quorum is the default"


def _access(target: Target) -> Iterator[str]:
    if all(is_loopback(host) for host, _ in target.addresses):
        return
    if target.tls is None:
        yield "RabbitMQ is reached over the network without TLS: passwords and jobs can be read in transit; use amqps://…"
    if target.username == "guest":
        yield 'RabbitMQ is reached over the network as guest: give jobs a user of its own, see "RabbitMQ" in the documentation'
