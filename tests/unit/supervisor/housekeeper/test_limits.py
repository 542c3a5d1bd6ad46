"""What the housekeeper makes of limits: bounded figures for metrics, and alerts about those that stay full."""

import time
import unittest.mock
from typing import ClassVar

import pytest

from jobs_core import App
from jobs_core.backends.limits import Limit, LimitState, Lines
from jobs_core.backends.memory import MemoryBackend, forget
from jobs_core.config import Alerts, Config, Duration, Topic
from jobs_core.config import Limit as Defined
from jobs_core.ids import new_token
from jobs_core.plugins import Plugins
from jobs_core.scoreboard.state import Backlog, Board, TopicState, Totals, read_board
from jobs_core.supervisor.housekeeper.housekeeper import Housekeeper
from jobs_core.supervisor.housekeeper.limits import MOST_VALUES, LimitAlerts, figures
from jobs_core.supervisor.http.metrics import exposition


def alerts_of(sent, **topics):
    config = Config(topics=topics, alerts=Alerts(repeat=Duration(100)))
    return LimitAlerts(config, sent.append)


def full(limit, waiting=3):
    return LimitState(limit, used=5, waiting=waiting, definition=Limit(5))


AGED = Topic(alert_age=Duration(60))


def test_a_limit_that_stays_full_for_longer_than_alert_age_is_an_alert_once_per_repeat():
    sent = []
    alerts = alerts_of(sent, a=AGED, b=Topic(alert_age=Duration(500)))
    for now in range(0, 60, 5):
        alerts.check(now, [full("stripe")])
    assert (sent, alerts.active(59)) == ([], {})
    for now in range(60, 160, 5):
        alerts.check(now, [full("stripe"), LimitState("idle", used=1)])
    assert len(sent) == 1
    assert alerts.active(155) == {"stripe": 155}
    alerts.check(160, [full("stripe")])
    assert len(sent) == 2
    facts = sent[0].facts
    assert {**facts, "host": 0, "time": 0, "pid": 0} == {
        "kind": "limit_full", "host": 0, "time": 0, "pid": 0, "prefix": "jobs", "limit": "stripe", "fullest": "stripe",
        "used": 5, "waiting": 3, "seconds": 60,
    }  # fmt: skip
    assert "the fullest is stripe: 5 used, 3 waiting, full" in sent[0].text
    assert sent[0].about == "limit stripe"


def test_a_limit_with_room_in_between_starts_over():
    sent = []
    alerts = alerts_of(sent, a=AGED)
    for now, states in ((0, [full("stripe")]), (50, []), (55, [full("stripe")]), (100, [full("stripe")])):
        alerts.check(now, states)
    assert sent == []
    alerts.check(120, [full("stripe")])
    alerts.check(125, [])
    assert (len(sent), alerts.active(125)) == (1, {})


def test_all_values_of_a_name_are_one_alert():
    sent = []
    alerts = alerts_of(sent, a=AGED)
    for now in (0, 70):
        alerts.check(now, [full(f"partner:{n}", n) for n in range(1, 1000)])
    assert [(alert.facts["limit"], alert.facts["fullest"], alert.facts["waiting"]) for alert in sent] == [
        ("partner", "partner:999", 999 * 500)
    ]


@pytest.mark.parametrize("topic", [Topic(), Topic(alert_above=5)])
def test_without_an_alert_age_there_is_no_alert(topic):
    sent = []
    alerts = alerts_of(sent, a=topic)
    for now in (0, 10**6):
        alerts.check(now, [full("stripe")])
    assert sent == []


def test_metrics_have_every_name_and_the_fullest_values():
    states = [
        LimitState("partner", definition=Limit(5)),
        *(LimitState(f"partner:{n}", used=n % 6, waiting=n) for n in range(500)),
        LimitState("stripe", used=2, definition=Limit(5)),
    ]
    found = figures(states)
    assert [each.limit for each in found[:2]] == ["partner", "stripe"]
    assert [each.limit for each in found[2:]] == [f"partner:{n}" for n in range(499, 499 - MOST_VALUES, -1)]


def board(**facts):
    backlog = Backlog(at=time.time(), pid=1, topics={"t": TopicState(ready=1, limited=7)}, **facts)
    return Board(supervisor=None, backlog=backlog, totals=Totals(), workers=[])


def test_limits_are_metrics_with_bounded_labels():
    text = exposition(
        board(has_lines=True, limits=figures([full("stripe"), full('stripe:a"b', 9)])), lease=30, openmetrics=True
    )
    assert 'jobs_limited{topic="t"} 7' in text
    assert 'jobs_limit_used{limit="stripe",value=""} 5' in text
    assert 'jobs_limit_waiting{limit="stripe",value="a\\"b"} 9' in text


def test_a_backend_without_limits_has_no_such_metric():
    assert "limit" not in exposition(board(), lease=30, openmetrics=True)


class WithLimits(MemoryBackend):
    features = MemoryBackend.features | {"limits", "fairness"}
    defined: ClassVar[list] = []

    def define_limits(self, limits, topics):
        self.defined.append((limits, topics))

    def limits(self, most, names=()):
        return [full("stripe")]


def test_the_housekeeper_writes_definitions_once_it_is_connected_and_reads_their_use(tmp_path, registry, monkeypatch):
    url = f"memory://{new_token()}"
    app = App(Config(backend=url, limits={"stripe": Defined(concurrency=5)}), plugins=Plugins(), registry=registry)
    monkeypatch.setattr(app, "_make_backend", lambda clock: WithLimits(url, app.backend_options(clock)))
    keeper = Housekeeper(app, unittest.mock.Mock(), tmp_path)
    keeper._work(1.0)
    keeper._work(10.0)
    assert WithLimits.defined == [({"stripe": Limit(5)}, {"default": Lines()})]
    (found,) = read_board(tmp_path).backlog.limits
    assert (found.limit, found.used, found.waiting, found.concurrency) == ("stripe", 5, 3, 5)
    keeper._backend.close()
    app.close()
    forget(url)
