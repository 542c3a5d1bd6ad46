"""What reaches Sentry, read from its SDK in this process."""

from __future__ import annotations

import logging

import pytest
import sentry_sdk

from jobs_core import App, ConfigError, Discard, Retry, Snooze, current_job, job
from jobs_core.config import Config, ScheduleEntry
from jobs_core.message import decode, new_message
from jobs_core.units import Duration
from jobs_sentry.monitors import monitor, slug
from jobs_sentry.settings import read


def fails(card="4111", password="hunter2"):
    local = card
    raise ValueError(f"no {len(local)}")


def test_without_its_table_an_installed_plugin_has_no_hooks():
    quiet = App(Config(backend="memory://sentry-quiet"))
    assert [quiet.plugins.implementations(hook) for hook in ("jobs_before_enqueue", "jobs_run_context")] == [[], []]
    loud = App(Config(backend="memory://sentry-loud", plugins={"sentry": {}}))
    assert len(loud.plugins.implementations("jobs_run_context")) == 1


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"dsn": "https://a@b/1"}, r"plugins\.sentry\.dsn: set SENTRY_DSN in the environment"),
        ({"monitor": True}, r"plugins\.sentry\.monitor: there is no such key"),
        ({"report": "some"}, r'plugins\.sentry\.report: expected "final" or "all"'),
        ({"arguments": 1}, r"plugins\.sentry\.arguments: expected true or false"),
        ({"flush_timeout": "5"}, r"plugins\.sentry\.flush_timeout: expected seconds"),
    ],
)
def test_a_mistake_in_the_table_names_its_key(table, said):
    with pytest.raises(ConfigError, match=said):
        read(table)


@pytest.mark.parametrize("mode", ["threads", "async"])
def test_a_dead_job_is_one_event_with_its_context_in_the_trace_of_its_run(rig, mode):
    rig.plug()
    handle = job(registry=rig.registry, name="shop.pay", retries=0)(fails).enqueue("4111 1111", password="hunter2")
    rig.work(mode)
    (event,) = rig.sent("event")
    (exception,) = event["exception"]["values"]
    assert (exception["type"], exception["value"]) == ("ValueError", "no 9")
    assert event["contexts"]["job"] == {
        "id": handle.id,
        "job": "shop.pay",
        "topic": "default",
        "attempt": 1,
        "retries": 0,
        "redeliveries": 0,
        "worker": "web1-1",
        "pool": "mail",
    }
    assert event["tags"] == {"jobs.job": "shop.pay", "jobs.topic": "default", "jobs.outcome": "dead"}
    assert event["transaction"] == "shop.pay"
    (transaction,) = rig.sent("transaction")
    assert event["contexts"]["trace"]["trace_id"] == transaction["contexts"]["trace"]["trace_id"]
    assert event["contexts"]["trace"]["span_id"] == transaction["contexts"]["trace"]["span_id"]
    assert transaction["contexts"]["trace"]["status"] == "internal_error"


def test_arguments_and_local_variables_are_not_sent(rig):
    rig.plug()
    job(registry=rig.registry, name="f", retries=0)(fails).enqueue("5500 0000", password="hunter2")
    rig.work()
    (event,) = rig.sent("event")
    frames = event["exception"]["values"][0]["stacktrace"]["frames"]
    assert frames
    assert not any("vars" in frame for frame in frames)
    assert "5500" not in str(event)
    assert "hunter2" not in str([event.get("extra"), event["contexts"], event["tags"]])


def test_with_arguments_they_are_sent_by_name_and_scrubbed(rig):
    rig.plug(arguments=True)
    job(registry=rig.registry, name="f", retries=0, encrypt=False)(fails).enqueue("4111 1111", "hunter2")
    rig.work()
    (event,) = rig.sent("event")
    assert event["extra"]["arguments"] == {"card": "4111 1111", "password": "[Filtered]"}
    frames = event["exception"]["values"][0]["stacktrace"]["frames"]
    assert frames[-1]["vars"]["card"] == "'4111 1111'"
    assert frames[-1]["vars"]["password"] == "[Filtered]"


def test_the_arguments_of_an_encrypted_job_are_never_sent(rig):
    rig.plug(arguments=True)
    job(registry=rig.registry, name="f", retries=0, encrypt=True)(fails).enqueue("5500 0000")
    rig.work()
    (event,) = rig.sent("event")
    assert event["exception"]["values"][0]["value"] == "no 9"
    assert "5500" not in str(event)


def test_a_failure_that_is_retried_is_reported_only_if_all_are(rig):
    def once():
        if current_job().attempt == 1:
            raise ConnectionError("come back")

    rig.plug()
    job(registry=rig.registry, name="f", retries=2, backoff=0.001)(once).enqueue()
    rig.work()
    assert rig.sent("event") == []


def test_with_report_all_every_failed_attempt_is_an_event(rig):
    def once():
        if current_job().attempt == 1:
            raise ConnectionError("come back")

    rig.plug(report="all")
    job(registry=rig.registry, name="f", retries=2, backoff=0.001)(once).enqueue()
    rig.work()
    (event,) = rig.sent("event")
    assert event["tags"]["jobs.outcome"] == "retry"


@pytest.mark.parametrize("error", [Retry(0.001), Snooze(0.001), Discard("no order")], ids=["retry", "snooze", "discard"])
def test_an_outcome_that_the_job_chose_is_no_error(rig, error):
    seen = []

    def chooses():
        seen.append(1)
        if len(seen) == 1:
            raise error

    rig.plug(report="all")
    job(registry=rig.registry, name="f", retries=2)(chooses).enqueue()
    rig.work()
    assert rig.sent("event") == []


def test_a_log_line_about_a_failed_run_is_no_second_event(rig, caplog):
    rig.plug()
    job(registry=rig.registry, name="f", retries=0)(fails).enqueue()
    with caplog.at_level(logging.INFO):
        rig.work()
    assert "is dead after 1 attempt" in caplog.text
    assert len(rig.sent("event")) == 1


def test_the_tags_of_one_run_are_not_those_of_the_next(rig):
    def tags(n):
        sentry_sdk.set_tag(f"n{n}", n)
        raise ValueError(n)

    rig.plug()
    f = job(registry=rig.registry, name="f", retries=0)(tags)
    f.enqueue_many([(1,), (2,)])
    rig.work()
    assert sorted(sorted(tag for tag in event["tags"] if tag.startswith("n")) for event in rig.sent("event")) == [
        ["n1"],
        ["n2"],
    ]


def test_a_request_and_its_job_are_one_trace_with_the_spans_of_the_page_about_queues(rig):
    rig.plug()
    f = job(registry=rig.registry, name="shop.send", topic="default")(lambda: None)
    with sentry_sdk.start_transaction(op="http.server", name="request"):
        handle = f.enqueue()
    rig.work()
    request, run = rig.sent("transaction")
    assert request["contexts"]["trace"]["trace_id"] == run["contexts"]["trace"]["trace_id"]
    (publish,), (process,) = request["spans"], run["spans"]
    assert (publish["op"], publish["description"]) == ("queue.publish", "shop.send")
    assert publish["data"]["messaging.destination.name"] == "default"
    assert publish["data"]["messaging.message.id"] == handle.id
    assert run["contexts"]["trace"]["parent_span_id"] == publish["span_id"]
    assert (process["op"], run["contexts"]["trace"]["status"]) == ("queue.process", "ok")
    assert process["data"]["messaging.message.id"] == handle.id
    assert process["data"]["messaging.destination.name"] == "default"
    assert process["data"]["messaging.message.retry.count"] == 0
    assert 0 <= process["data"]["messaging.message.receive.latency"] < 30_000


def test_an_enqueue_outside_a_transaction_still_passes_the_trace_on(rig):
    rig.plug()
    handle = job(registry=rig.registry, name="f")(lambda: None).enqueue()
    headers = decode(rig.app.find(handle.id).payload, topic="default").headers
    assert headers["sentry-trace"].startswith(sentry_sdk.get_traceparent()[:32])


def test_the_baggage_of_another_tracer_is_kept(rig):
    rig.plug()
    f = job(registry=rig.registry, name="f")(lambda: None).using(headers={"baggage": "tenant=acme"})
    headers = decode(rig.app.find(f.enqueue().id).payload, topic="default").headers
    assert headers["baggage"].startswith("tenant=acme,sentry-")


@pytest.mark.parametrize("value", ["", "nonsense", 7, None, {"a": 1}, "0" * 100_000])
def test_a_header_that_is_no_trace_is_ignored(rig, value):
    rig.plug()
    ran = []
    job(registry=rig.registry, name="f")(lambda: ran.append(1))
    message = new_message("f", "default", (), {}, headers={"sentry-trace": value, "baggage": value, "schedule": value})
    rig.app._producer.push([rig.app.outgoing(message)], 5.0)
    rig.work()
    assert ran == [1]


def test_without_the_sdk_running_jobs_run_and_messages_are_unchanged(rig):
    rig.plug()
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)
    handle = job(registry=rig.registry, name="f")(lambda: None).enqueue()
    assert decode(rig.app.find(handle.id).payload, topic="default").headers == {}
    rig.work()
    assert rig.sent("event") == []


# -- cron monitors -----------------------------------------------------------------------------------


def tick(rig, entry="nightly"):
    message = new_message("f", "default", (), {}, headers={"schedule": entry, "tick": 1.0})
    rig.app._producer.push([rig.app.outgoing(message)], 5.0)
    return message.id


def test_a_tick_that_is_retried_is_one_check_in_from_its_first_run_to_its_last(rig):
    def once():
        if current_job().attempt < 3:
            raise ConnectionError("come back")

    rig.plug(monitors=True)
    job(registry=rig.registry, name="f", retries=5, backoff=0.001)(once)
    tick(rig)
    rig.work()
    begin, end = rig.sent("check_in")
    assert (begin["monitor_slug"], begin["status"]) == ("nightly", "in_progress")
    assert (end["monitor_slug"], end["status"]) == ("nightly", "ok")
    assert begin["check_in_id"] == end["check_in_id"]
    assert end["duration"] >= 0


def test_a_tick_whose_job_dies_ends_with_an_error(rig):
    rig.plug(monitors=True)
    job(registry=rig.registry, name="f", retries=0)(fails)
    tick(rig)
    rig.work()
    assert [each["status"] for each in rig.sent("check_in")] == ["in_progress", "error"]


def test_without_monitors_and_for_jobs_that_are_not_scheduled_nothing_checks_in(rig):
    rig.plug()
    f = job(registry=rig.registry, name="f")(lambda: None)
    tick(rig)
    rig.work()
    rig.plug(monitors=True)
    f.enqueue()
    rig.work()
    assert rig.sent("check_in") == []


def test_a_job_with_a_cron_expression_has_a_monitor(rig):
    rig.plug(monitors=True)
    job(registry=rig.registry, name="f", cron="0 7 * * *", tz="Europe/Berlin")(lambda: None)
    tick(rig, "f")
    rig.work()
    assert rig.sent("check_in")[0]["monitor_config"] == {
        "schedule": {"type": "crontab", "value": "0 7 * * *"},
        "timezone": "Europe/Berlin",
    }


@pytest.mark.parametrize(
    ("entry", "made"),
    [
        (ScheduleEntry(job="f", cron="*/5 * * * *"), {"type": "crontab", "value": "*/5 * * * *"}),
        (ScheduleEntry(job="f", cron="0 */5 * * * *"), None),
        (ScheduleEntry(job="f", every=Duration(90)), None),
        (ScheduleEntry(job="f", every=Duration(120)), {"type": "interval", "value": 2, "unit": "minute"}),
        (ScheduleEntry(job="f", every=Duration(7200)), {"type": "interval", "value": 2, "unit": "hour"}),
        (ScheduleEntry(job="f", every=Duration(86400)), {"type": "interval", "value": 1, "unit": "day"}),
    ],
    ids=["cron", "seconds", "90s", "2m", "2h", "1d"],
)
def test_sentry_makes_the_monitors_that_it_can_express(entry, made):
    found = monitor(entry.cron, entry.every, entry.tz)
    assert (found and found["schedule"]) == made


def test_the_name_of_a_monitor_is_one_that_sentry_accepts():
    assert slug("shop.Reports.nightly") == "shop-reports-nightly"
    assert slug("…") == "schedule"
    assert len(slug("x" * 80)) == 50
