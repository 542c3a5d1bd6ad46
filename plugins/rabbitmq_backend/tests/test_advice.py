"""`jobsctl check` reports each risk of a broker once, with its fix."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from jobs_core.backends.base import BackendOptions
from jobs_rabbitmq.advice import advice
from jobs_rabbitmq.url import parse

SAFE = "amqps://shop:secret@broker.example/shop"


def said(url, *, version="3.13.0", longest=60.0):
    connection = SimpleNamespace(server_properties={"version": version})
    return advice(parse(url), BackendOptions(longest_run=lambda: longest), connection)


@pytest.mark.parametrize("url", [SAFE, "amqp://localhost", "amqp://127.0.0.1,[::1]:5673"])
def test_a_sound_setting_earns_no_advice(url):
    assert said(url) == []


@pytest.mark.parametrize(
    ("url", "more", "says"),
    [
        (SAFE, {"version": "3.9.5"}, "3.9 is older than 3.10"),
        ("amqp://shop:secret@broker.example", {}, "without TLS"),
        ("amqps://broker.example", {}, "as guest"),
        (f"{SAFE}?queues=classic", {}, "quorum is the default"),
        (SAFE, {"version": "3.10.8", "longest": 7200.0}, "`consumer_timeout = 14400000` into rabbitmq.conf"),
        (SAFE, {"version": "3.10.8", "longest": None}, "`consumer_timeout = 86400000` into rabbitmq.conf"),
        (f"{SAFE}?consumer_timeout=60", {"longest": 120.0}, "consumer_timeout is 60 s, and the longest job may run for 120 s"),
        (f"{SAFE}?queues=classic&consumer_timeout=60", {"longest": 120.0}, "consumer_timeout is 60 s"),
    ],
)
def test_a_risk_is_reported_with_its_fix(url, more, says):
    assert sum(says in one for one in said(url, **more)) == 1


@pytest.mark.parametrize(
    ("version", "longest", "timeout"),
    [("3.10.8", 1200.0, ""), ("3.10.8", 7200.0, "?consumer_timeout=3h"), ("3.12.0", None, "")],
)
def test_a_consumer_timeout_that_is_long_enough_is_not_reported(version, longest, timeout):
    assert said(SAFE + timeout, version=version, longest=longest) == []
