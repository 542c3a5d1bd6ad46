"""From deliveries to runs, or to the settlements of jobs that cannot run."""

import msgspec
import pytest

from jobs_core import App, job
from jobs_core.backends.base import Delivery, Outcome, Settlement
from jobs_core.config import Config, Topic
from jobs_core.message import Message, Signer, encode, new_message
from jobs_core.plugins import Plugins
from jobs_core.runs.run import Run
from jobs_core.worker.decoder import Decoder

KEY = "k1:" + "s" * 32


@pytest.fixture
def take(registry):
    @job(registry=registry, name="pay", aliases=["old.pay"], retries=4)
    def pay(amount: int, to: str = "x") -> None:
        pass

    def take(payload, *, config=None, **facts):
        app = App(config or Config(backend="memory://intake"), plugins=Plugins(), registry=registry)
        defaults = {"attempt": 0, "redeliveries": 0, "crashes": 0, "deferrals": 0, "pushed_at": 1000.0, "broker_now": 1000.0}
        return Decoder(app).accept(Delivery("id", "t", payload, 1, **(defaults | facts)))

    return take


def envelope(**fields):
    return encode(Message(**({"v": 1, "topic": "t", "job": "pay", "args": [5]} | fields)))


def reason(settlement):
    return settlement.outcome, settlement.reason, msgspec.json.decode(settlement.error)["message"]


def test_a_good_message_is_a_run(take):
    run = take(envelope())
    assert isinstance(run, Run)
    assert (run.job.name, run.args, run.retries, run.timeout) == ("pay", [5], 4, None)


def test_the_envelope_overrides_the_function(take):
    run = take(envelope(retries=0, timeout=2.5, store_result=True))
    assert (run.retries, run.timeout, run.store_result) == (0, 2.5, True)


def test_an_alias_is_the_job(take):
    assert take(envelope(job="old.pay")).job.name == "pay"


@pytest.mark.parametrize(
    ("payload", "why", "says"),
    [
        (b"\xff", "bad message", "not JSON"),
        (b'{"v":1,"topic":"t"}', "bad message", "names no job"),
        (envelope(args=["five"]), "bad arguments", "argument 'amount' of pay: expected int, got str"),
        (envelope(args=[]), "bad arguments", "missing 1 required positional argument: 'amount'"),
        (envelope(kwargs={"whom": 1}), "bad arguments", "unexpected keyword argument 'whom'"),
    ],
)
def test_bad_messages_are_dead_letters_with_the_reason(take, payload, why, says):
    outcome, reason_, message = reason(take(payload))
    assert (outcome, reason_) == (Outcome.DEAD, why)
    assert says in message
    assert not take(payload).counts


def test_a_message_over_the_limit_is_a_dead_letter(take):
    config = Config(backend="memory://intake", max_message=1000)
    assert reason(take(envelope(args=["x" * 2000]), config=config))[1] == "bad message"


def test_foreign_json_goes_to_the_default_job(take):
    config = Config(backend="memory://intake", topics={"t": Topic(default_job="pay")})
    assert take(b"7", config=config).args == [7]
    assert reason(take(b'"seven"', config=config))[1] == "bad arguments"


def test_a_signature_is_demanded_where_keys_are_configured(take):
    config = Config(backend="memory://intake", signing_keys=[KEY])
    assert isinstance(take(encode(new_message("pay", "t", [5], {}), signer=Signer([KEY])), config=config), Run)
    assert "not signed" in reason(take(envelope(), config=config))[2]


# -- expiry ----------------------------------------------------------------------------------------


def test_expiry_counts_from_the_push_by_the_brokers_clock(take):
    fresh = take(envelope(expires_in=10.0, enqueued_at=1.0), broker_now=1009.0)
    assert isinstance(fresh, Run)
    stale = take(envelope(expires_in=10.0, enqueued_at=9e9), broker_now=1010.0)
    assert (stale.outcome, stale.reason) == (Outcome.EXPIRED, "expired")


def test_a_signed_message_cannot_be_replayed_after_its_expiry(take):
    config = Config(backend="memory://intake", signing_keys=[KEY])
    old = Message(v=1, topic="t", job="pay", args=[5], enqueued_at=900.0, expires_in=50.0)
    replayed = take(encode(old, signer=Signer([KEY])), config=config, pushed_at=1000.0, broker_now=1000.0)
    assert replayed.outcome is Outcome.EXPIRED


# -- what this generation does not know -------------------------------------------------------------


@pytest.mark.parametrize("payload", [envelope(job="pai"), b'{"v":9,"topic":"t"}'])
def test_the_unknown_waits_for_newer_workers_and_is_then_dead(take, payload):
    waits, settled = [], None
    for deferrals in range(100):
        settled = take(payload, deferrals=deferrals)
        assert isinstance(settled, Settlement)
        if settled.outcome is Outcome.DEAD:
            break
        waits.append(settled.after)
    assert waits[:5] == [5, 10, 20, 40, 60]
    assert sum(waits) == 600
    assert settled.reason in ("unknown job", "unknown version")


def test_a_dead_unknown_job_names_the_nearest(take):
    config = Config(backend="memory://intake", unknown_grace=0.0)
    outcome, why, message = reason(take(envelope(job="pai"), config=config))
    assert (outcome, why) == (Outcome.DEAD, "unknown job")
    assert "the nearest names are pay" in message


def test_no_message_causes_an_import(take):
    import sys

    take(envelope(job="no.such"), config=Config(backend="memory://intake", unknown_grace=0.0))  # loads what answers need
    before = set(sys.modules)
    take(envelope(job="antigravity.fly"), config=Config(backend="memory://intake", unknown_grace=0.0))
    take(envelope(job="os.system", args=["true"]), config=Config(backend="memory://intake", unknown_grace=0.0))
    assert set(sys.modules) == before


# -- crashes ---------------------------------------------------------------------------------------


def test_a_job_that_took_enough_workers_down_is_not_run_again(take):
    assert isinstance(take(envelope(), crashes=2, redeliveries=5), Run)
    outcome, why, message = reason(take(envelope(), crashes=3, redeliveries=3))
    assert (outcome, why) == (Outcome.DEAD, "crashed")
    assert "3 workers died" in message
