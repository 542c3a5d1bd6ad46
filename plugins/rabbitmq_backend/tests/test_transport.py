"""Without anything of ours beneath a message, on pika's own connection and loop, the backend keeps what it promises."""

import pika
import pytest

from jobs_core.testing.contract.leaving import Leaving
from jobs_core.testing.contract.settling import Settling
from jobs_core.testing.contract.trouble import Trouble
from jobs_rabbitmq import transport
from jobs_rabbitmq.transport.loop import Loop
from jobs_rabbitmq.transport.plain import PlainLoop

from .helpers import OnRabbitMQ


@pytest.fixture(scope="class")
def library():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOBS_TRANSPORT", "library")
        assert isinstance(transport.new_loop(), PlainLoop)
        yield


@pytest.mark.usefixtures("library")
class TestOnPikasOwn(OnRabbitMQ, Settling, Leaving, Trouble):
    """The way of a job, and what may go wrong on it."""


@pytest.mark.parametrize(("release", "kind"), [("1.4.9", Loop), ("1.3.2", PlainLoop), ("1.5.0", PlainLoop), ("2.0", PlainLoop)])
def test_a_pika_that_our_adapter_was_not_tested_with_serves_by_its_own(monkeypatch, release, kind):
    monkeypatch.delenv("JOBS_TRANSPORT", raising=False)
    monkeypatch.setattr(pika, "__version__", release)
    assert type(transport.new_loop()) is kind
