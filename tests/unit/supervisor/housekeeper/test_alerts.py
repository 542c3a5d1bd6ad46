"""The times and texts of backlog alerts; the channels are real, the clock is the test's."""

import itertools
import logging
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs_core import hookimpl
from jobs_core.backends.base import FEATURES, BackendOptions, Counts
from jobs_core.backends.memory import MemoryBackend
from jobs_core.config import Alerts as AlertsConfig
from jobs_core.config import Config, Duration, Pool, Topic
from jobs_core.errors import ConfigError, PluginError
from jobs_core.loaders.base import AlertChannel
from jobs_core.plugins import PluginInfo, Plugins
from jobs_core.supervisor.housekeeper.alerts import TopicAlerts, channels, ineffective_limits, message
from jobs_core.supervisor.housekeeper.sender import Sender, hide, secrets

from ....support.project import PATIENCE, until
from ....support.receiver import Receiver

DEEP, SHALLOW = Counts(ready=101, scheduled=2, reserved=3, dead=4, oldest_age=12.34), Counts(ready=100)


class Told:
    """Alerts on one topic with a channel that keeps what it gets, and the hook's calls."""

    def __init__(self, channels=(), plugins=None, topic=Topic(alert_above=100, alert_age=Duration(60)), **alerts):
        told = self
        self.hooks, self.sent = [], []

        class Keep(AlertChannel):
            def send(self, title, text, facts):
                told.sent.append((title, text, facts))

        class Plugin:
            @hookimpl
            def jobs_alert_channels(self):
                return {"keep": lambda settings: Keep()}

        self.plugins = plugins or Plugins()
        self.plugins._add(Plugin(), PluginInfo("keep", "test", "1"))
        configured = {name: {} for name in ("keep",)} | dict(channels)
        config = Config(
            topics={"email": topic, "other": Topic()},
            pools={"mail": Pool(topics=["email"])},
            alerts=AlertsConfig(channels=configured, **alerts),
        )
        self.alerts = TopicAlerts(config, self.plugins, lambda hook, **said: self.hooks.append((hook, said)))

    def check(self, now, counts, topic="email"):
        self.alerts.check(now, {topic: counts})
        self.alerts.close(PATIENCE)

    @property
    def kinds(self):
        return [facts["kind"] for _, _, facts in self.sent]


# -- when ------------------------------------------------------------------------------------------


def test_a_topic_over_its_limit_for_a_minute_is_reported():
    told = Told()
    for second in range(60):
        told.check(second, DEEP)
    assert told.sent == []
    assert told.alerts.active() == []
    told.check(60, DEEP)
    assert told.kinds == ["backlog"]
    assert told.alerts.active() == ["email"]
    assert told.hooks == [("jobs_topic_backlog", {"topic": "email", "counts": DEEP})]


def test_it_is_reported_every_three_minutes_and_when_it_is_over():
    told, at = Told(), []
    for second in range(501):
        told.check(second, DEEP if second < 500 else SHALLOW)
        at += [second] * (len(told.sent) - len(at))
    assert list(zip(at, told.kinds, strict=True)) == [(60, "backlog"), (240, "backlog"), (420, "backlog"), (500, "over")]
    assert len(told.hooks) == 3


def test_an_old_job_is_enough():
    told = Told()
    old = Counts(ready=1, oldest_age=60.5)
    told.check(0, old)
    told.check(60, old)
    assert told.kinds == ["backlog"]
    assert told.sent[0][2]["oldest_age"] == 60.5


def test_a_short_peak_is_not_reported():
    told = Told()
    for second in range(0, 600, 10):
        told.check(second, SHALLOW if second % 60 == 50 else DEEP)
    assert told.sent == []
    assert told.hooks == []


def test_the_end_is_reported_only_after_a_reported_start():
    told = Told()
    told.check(0, DEEP)
    told.check(59, SHALLOW)
    assert told.sent == []


def test_a_topic_that_comes_and_goes_is_not_reported_more_often():
    told = Told()
    for second in range(3600):
        told.check(second, SHALLOW if second % 70 == 69 else DEEP)
    assert told.kinds.count("backlog") <= 3600 / 180
    assert told.kinds.count("over") <= told.kinds.count("backlog")


def test_a_topic_without_counts_is_as_it_was():
    told = Told()
    told.check(0, DEEP)
    told.check(30, DEEP, topic="other")
    told.check(60, DEEP)
    assert told.kinds == ["backlog"]
    told.check(70, SHALLOW, topic="other")
    assert told.kinds == ["backlog"]


def test_only_topics_with_a_limit_are_watched():
    told = Told()
    assert told.alerts.topics == ("email",)
    for second in range(100):
        told.check(second, Counts(ready=10**9, oldest_age=10**6), topic="other")
    assert told.sent == []


def test_after_and_repeat_are_configurable():
    told = Told(after=Duration(2), repeat=Duration(5))
    for second in range(9):
        told.check(second, DEEP)
    assert told.kinds == ["backlog", "backlog"]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 90), st.booleans()), max_size=40))
def test_alerts_come_at_most_once_per_repeat_and_ends_follow_beginnings(steps):
    told, now, at = Told(), 0, []
    for seconds, deep in steps:
        now += seconds
        told.check(now, DEEP if deep else SHALLOW)
        at += [now] * (len(told.sent) - len(at))
    times = [moment for moment, kind in zip(at, told.kinds, strict=True) if kind == "backlog"]
    assert all(later - earlier >= 180 for earlier, later in itertools.pairwise(times))
    for number, kind in enumerate(told.kinds):
        if kind == "over":
            assert number > 0
            assert told.kinds[number - 1] == "backlog"


# -- what ------------------------------------------------------------------------------------------


def test_an_alert_has_a_title_a_text_and_its_facts():
    told = Told()
    told.check(0, DEEP)
    told.check(61, DEEP)
    ((title, text, facts),) = told.sent
    assert title == "jobs: topic email is behind"
    host = os.uname().nodename
    assert facts | {"time": ""} == {
        "kind": "backlog", "host": host, "time": "", "pid": os.getpid(), "prefix": "jobs", "topic": "email",
        "ready": 101, "scheduled": 2, "reserved": 3, "dead": 4, "oldest_age": 12.3, "alert_above": 100, "alert_age": 60.0,
        "seconds": 61,
    }  # fmt: skip
    assert text.splitlines()[:3] == [
        "101 ready (limit 100), the oldest has waited for 12s (limit 1m)",
        "3 running, 2 scheduled, 4 dead",
        "for 1m1s",
    ]
    assert f"jobs on {host}, " in text


def test_an_alert_of_an_unserved_topic_says_that_it_is_unserved():
    counts = Counts(ready=3, scheduled=0, reserved=0, dead=0, oldest_age=60.0)
    told = {name: message(config, "backlog", "email", counts, 60.0).text for name, config in {
        "served": Config(pools={"mail": Pool(topics=["email"])}), "nobody": Config(),
        "elsewhere": Config(topics={"email": Topic(serve=False)}),
    }.items()}  # fmt: skip
    assert [name for name, text in told.items() if "no pool serves it" in text] == ["nobody"]


def test_it_is_always_in_the_log(caplog):
    caplog.set_level(logging.INFO, "jobs")
    told = Told()
    told.check(0, DEEP)
    told.check(60, DEEP)
    told.check(61, SHALLOW)
    assert [type(record.event).__name__ for record in caplog.records] == ["TopicBacklog", "TopicCaughtUp"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


# -- channels --------------------------------------------------------------------------------------


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


def test_the_built_in_channels_are_plugins_and_several_of_a_kind_have_names(receiver):
    told = Told({"webhook": {"url": f"{receiver.url}/1"}, "ops": {"kind": "slack", "url": f"{receiver.url}/2"}})
    told.check(0, DEEP)
    told.check(60, DEEP)
    by_path = dict(zip(receiver.paths, receiver.until(2), strict=True))
    assert by_path["/1"]["ready"] == 101
    assert by_path["/1"]["title"] == "jobs: topic email is behind"
    assert by_path["/2"]["text"].startswith("*jobs: topic email is behind*\n")


def test_a_hanging_channel_delays_no_other_and_queues_no_alerts(receiver):
    receiver.hang.clear()
    told = Told({"webhook": {"url": receiver.url}})
    before = threading.active_count()
    told.alerts.check(0, {"email": DEEP})
    told.alerts.check(60, {"email": DEEP})
    receiver.until(1)
    for second in range(70, 3600, 10):
        told.alerts.check(second, {"email": DEEP})
    assert threading.active_count() <= before + 4  # of the channels, the timer of a request, the server itself
    until(lambda: len(told.sent) >= 1)
    receiver.hang.set()
    told.alerts.close(PATIENCE)
    assert len(receiver.bodies) == 2  # the one that hung, and the newest of those that came meanwhile
    assert receiver.bodies[1]["seconds"] == 3480


def test_a_failing_channel_is_reported_once_an_outage_without_its_secrets(receiver, caplog):
    caplog.set_level(logging.INFO, "jobs")
    url = f"{receiver.url}/services/T00SECRET/B00SECRET?token=tokensecret"
    told = Told({"webhook": {"url": url}})
    receiver.status, receiver.answer = 500, b"no such /services/T00SECRET/B00SECRET?token=tokensecret here tokensecret"
    for second in range(0, 700, 60):
        told.check(second, DEEP)
    receiver.status = 200
    told.check(1000, DEEP)
    receiver.status = 500
    told.check(1200, DEEP)
    said = [record.event for record in caplog.records if "Backlog" not in type(record.event).__name__]
    assert [type(event).__name__ for event in said] == ["AlertNotSent", "AlertsSentAgain", "AlertNotSent"]
    assert said[0].error.startswith("answered 500 Said: no such ")
    assert "secret" not in said[0].error.lower()
    assert told.kinds.count("backlog") == len(told.hooks) > 3  # the other channel got them all


def test_a_channel_that_never_recovers_is_reported_once(caplog):
    taken, released = threading.Event(), threading.Event()

    class Stuck(AlertChannel):
        def send(self, title, text, facts):
            taken.set()
            released.wait()

    sender = Sender("stuck", Stuck(), {})
    sender.send("email", "a", "b", {})
    assert taken.wait(PATIENCE)
    sender.check()
    assert caplog.records == []
    sender._began -= 10  # six seconds later
    sender.check()
    sender.check()
    (event,) = [record.event for record in caplog.records]
    assert event.error == "did not return within 5 s"
    released.set()
    assert sender.wait(PATIENCE)


def test_the_next_alert_is_sent_after_any_error_of_a_plugins_channel():
    class Odd(AlertChannel):
        calls = 0

        def send(self, title, text, facts):
            Odd.calls += 1
            raise SystemExit

    sender = Sender("odd", Odd(), {})
    for _ in range(2):
        sender.send("email", "a", "b", {})
        assert sender.wait(PATIENCE)
    assert Odd.calls == 2


def test_secrets_are_hidden_everywhere():
    found = secrets({"kind": "webhook", "url": "https://user:passw0rd@a.b/x/longpath?k=value12", "headers": {"A": "Bearer 12"}})
    text = hide("https://user:passw0rd@a.b/x/longpath?k=value12 passw0rd longpath value12 Bearer 12 webhook", found)
    assert text == "… … … … … webhook"


def test_a_channel_that_cannot_be_is_named_with_its_key():
    with pytest.raises(ConfigError, match=r"alerts\.channels\.slack: url is missing"):
        channels(Config(alerts=AlertsConfig(channels={"slack": {}})), Plugins())
    with pytest.raises(PluginError, match=r"alerts\.channels\.slak: there is no alert channel 'slak': did you mean 'slack'"):
        channels(Config(alerts=AlertsConfig(channels={"slak": {"url": "https://a.b/"}})), Plugins())


@pytest.mark.parametrize("features", [FEATURES, FEATURES - {"ages"}], ids=["ages are told", "ages are not told"])
@pytest.mark.parametrize(("limit", "by_age"), [({"alert_age": Duration(5)}, True), ({"alert_above": 5}, False), ({}, False)])
def test_a_limit_that_could_never_alert_is_named(features, limit, by_age):
    config = Config(topics={"email": Topic(**limit)})
    backend = MemoryBackend("memory://", BackendOptions())
    backend.features = features
    problems = ineffective_limits(config, backend)
    assert bool(problems) == (by_age and "ages" not in features)
    assert all("topics.email.alert_age" in problem and "alert_above" in problem for problem in problems)
