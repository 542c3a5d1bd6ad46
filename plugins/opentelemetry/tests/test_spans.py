"""Spans, context and metrics, read from the SDK's in-memory exporters."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from jobs_core import App, Call, ConfigError, Discard, DuplicateJob, Flow, Snooze, Unique, current_job, job
from jobs_core.config import Config
from jobs_core.message import decode, new_message
from jobs_opentelemetry.settings import Settings, read

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def header(span) -> str:
    return f"00-{format_trace_id(span.context.trace_id)}-{format_span_id(span.context.span_id)}-"


def test_without_its_table_an_installed_plugin_has_no_hooks():
    quiet = App(Config(backend="memory://otel-quiet"))
    assert [quiet.plugins.implementations(hook) for hook in ("jobs_before_enqueue", "jobs_run_context")] == [[], []]
    loud = App(Config(backend="memory://otel-loud", plugins={"opentelemetry": {}}))
    assert len(loud.plugins.implementations("jobs_before_enqueue")) == 1


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"parents": True}, r"plugins\.opentelemetry\.parents: there is no such key: the keys are parent, setup"),
        ({"parent": "yes"}, r"plugins\.opentelemetry\.parent: expected true or false"),
        ({"setup": "telemetry"}, r'plugins\.opentelemetry\.setup: expected "module:function"'),
        ({"flush_timeout": -1}, r"plugins\.opentelemetry\.flush_timeout: expected seconds"),
    ],
)
def test_a_mistake_in_the_table_names_its_key(table, said):
    with pytest.raises(ConfigError, match=said):
        read(table)
    with pytest.raises(ConfigError, match=said):
        App(Config(backend="memory://otel-wrong", plugins={"opentelemetry": table}))


def test_an_enqueue_is_a_producer_span_whose_context_is_in_the_headers(rig):
    send = job(registry=rig.registry, name="shop.send")(lambda text: None)
    with rig.tracer.start_as_current_span("request") as request:
        handle = send.enqueue("x")
    span = rig.span("send default")
    assert span.kind is SpanKind.PRODUCER
    assert span.parent.span_id == request.get_span_context().span_id
    assert dict(span.attributes) == {
        "messaging.system": "jobs",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "default",
        "messaging.message.id": handle.id,
        "messaging.jobs.job": "shop.send",
    }
    record = rig.app.find(handle.id)
    headers = decode(record.payload, topic="default").headers
    assert list(headers) == ["traceparent"]
    assert headers["traceparent"].startswith(header(span))
    (sent,) = rig.points("messaging.client.sent.messages")
    assert (sent.value, sent.attributes["messaging.destination.name"]) == (1, "default")
    assert rig.points("messaging.client.operation.duration")[0].count == 1


@pytest.mark.parametrize("mode", ["threads", "async"])
def test_a_run_is_a_consumer_span_in_a_trace_of_its_own_with_a_link_to_the_producers(rig, mode):
    inside = []
    run = job(registry=rig.registry, name="f")(lambda: inside.append(trace.get_current_span().get_span_context().span_id))
    handle = run.enqueue()
    rig.work(mode)
    send, process = rig.span("send default"), rig.span("process default")
    assert process.kind is SpanKind.CONSUMER
    assert process.parent is None
    assert process.context.trace_id != send.context.trace_id
    assert [link.context.span_id for link in process.links] == [send.context.span_id]
    assert inside == [process.context.span_id]
    assert dict(process.attributes) == {
        "messaging.system": "jobs",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "default",
        "messaging.message.id": handle.id,
        "messaging.client.id": "web1-1",
        "messaging.consumer.group.name": "mail",
        "messaging.jobs.job": "f",
        "messaging.jobs.attempt": 1,
        "messaging.jobs.retries": process.attributes["messaging.jobs.retries"],
        "messaging.jobs.outcome": "done",
    }
    assert process.status.status_code is StatusCode.UNSET


def test_with_parent_a_run_is_a_child_in_the_producers_trace_and_keeps_the_link(bare):
    bare.plug(Settings(parent=True))
    job(registry=bare.registry, name="f")(lambda: None).enqueue()
    bare.work()
    send, process = bare.span("send default"), bare.span("process default")
    assert process.parent.span_id == send.context.span_id
    assert process.context.trace_id == send.context.trace_id
    assert [link.context.span_id for link in process.links] == [send.context.span_id]


@pytest.mark.parametrize("mode", ["threads", "async"])
def test_every_attempt_has_a_span_with_its_number_and_error_linked_to_the_one_enqueue(rig, mode):
    async def fails():
        if current_job().attempt < 3:
            raise ConnectionError("come back")

    job(registry=rig.registry, name="f", retries=5, backoff=0.001)(fails).enqueue()
    rig.work(mode)
    send, spans = rig.span("send default"), rig.spans("process default")
    assert [span.attributes["messaging.jobs.attempt"] for span in spans] == [1, 2, 3]
    assert [span.attributes["messaging.jobs.outcome"] for span in spans] == ["retry", "retry", "done"]
    assert [span.attributes.get("error.type") for span in spans] == ["ConnectionError", "ConnectionError", None]
    assert [span.status.status_code for span in spans] == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
    assert [event.name for event in spans[0].events] == ["exception"]
    assert {link.context.span_id for span in spans for link in span.links} == {send.context.span_id}
    assert len({span.context.trace_id for span in spans}) == 3


def test_a_job_that_snoozes_has_not_failed_and_a_discarded_one_has(rig):
    seen = []

    def snoozes():
        seen.append(1)
        if len(seen) < 2:
            raise Snooze(0.001)

    def discards():
        raise Discard("no such order")

    job(registry=rig.registry, name="snoozes")(snoozes).enqueue()
    rig.work()
    job(registry=rig.registry, name="discards")(discards).enqueue()
    rig.work()
    spans = rig.spans("process default")
    assert [span.attributes["messaging.jobs.outcome"] for span in spans] == ["defer", "done", "dead"]
    assert [span.status.status_code for span in spans] == [StatusCode.UNSET, StatusCode.UNSET, StatusCode.ERROR]
    assert spans[2].attributes["error.type"] == "jobs_core.errors.Discard"


def test_a_batch_is_one_span_whose_context_all_its_messages_carry(rig):
    f = job(registry=rig.registry, name="f")(lambda n: None)
    rig.app.enqueue_many([Call(f, (n,), {}) for n in range(3)])
    rig.work()
    send = rig.span("send default")
    assert (send.kind, send.attributes["messaging.batch.message_count"]) == (SpanKind.PRODUCER, 3)
    linked = [link.context.span_id for span in rig.spans("process default") for link in span.links]
    assert linked == [send.context.span_id] * 3
    (sent,) = rig.points("messaging.client.sent.messages")
    assert sent.value == 3


def test_members_of_a_flow_have_contexts_of_their_own_and_runs_name_the_flow(rig):
    f = job(registry=rig.registry, name="f")(lambda: None)
    with rig.tracer.start_as_current_span("request") as request, Flow() as flow:
        flow.add(f.call())
    rig.work()
    create, send, process = rig.span("create default"), rig.span("send"), rig.span("process default")
    assert (create.kind, send.kind) == (SpanKind.PRODUCER, SpanKind.CLIENT)
    assert create.parent.span_id == send.parent.span_id == request.get_span_context().span_id
    assert [link.context.span_id for link in process.links] == [create.context.span_id]
    assert process.attributes["messaging.jobs.flow.id"] == flow.id


@pytest.mark.parametrize("mode", ["threads", "async"])
def test_a_follow_up_is_linked_to_a_create_span_inside_the_run_that_made_it(rig, mode):
    second = job(registry=rig.registry, name="second")(lambda: None)
    job(registry=rig.registry, name="first")(lambda: current_job().enqueue(second) and None).enqueue()
    rig.work(mode)
    rig.work(mode)
    create, (first, followed) = rig.span("create default"), rig.spans("process default")
    assert create.parent.span_id == first.context.span_id
    assert [link.context.span_id for link in followed.links] == [create.context.span_id]


def test_a_job_enqueued_inside_a_job_is_in_the_trace_of_its_run(rig):
    second = job(registry=rig.registry, name="second", topic="other")(lambda: None)
    job(registry=rig.registry, name="first")(lambda: second.enqueue() and None).enqueue()
    rig.work()
    assert rig.span("send other").parent.span_id == rig.span("process default").context.span_id


def test_an_enqueue_from_an_event_loop_is_in_the_callers_trace(rig):
    f = job(registry=rig.registry, name="f")(lambda: None)

    async def request():
        with rig.tracer.start_as_current_span("request") as span:
            await f.aenqueue()
            return span.get_span_context().span_id

    f.enqueue()
    assert asyncio.run(request()) == rig.spans("send default")[1].parent.span_id


def test_a_foreign_producers_context_is_kept_and_linked(rig):
    """As docs/envelope.md describes it: the headers of the envelope."""
    job(registry=rig.registry, name="f")(lambda: None)
    message = new_message("f", "default", (), {}, headers={"traceparent": PARENT, "attempt": 3})
    rig.app._producer.push([rig.app.outgoing(message)], 5.0)
    rig.work()
    (link,) = rig.span("process default").links
    assert (format_trace_id(link.context.trace_id), format_span_id(link.context.span_id)) == (TRACE, SPAN)


@pytest.mark.parametrize("value", ["", "nonsense", "00-0-0-00", PARENT * 1000, 7, None, {"a": 1}])
def test_a_header_that_is_no_context_is_ignored(rig, value):
    job(registry=rig.registry, name="f")(lambda: None)
    message = new_message("f", "default", (), {}, headers={"traceparent": value})
    rig.app._producer.push([rig.app.outgoing(message)], 5.0)
    rig.work()
    span = rig.span("process default")
    assert (span.links, span.attributes["messaging.jobs.outcome"]) == ((), "done")


def test_a_context_that_the_caller_put_into_the_headers_is_not_replaced(rig):
    f = job(registry=rig.registry, name="f")(lambda: None)
    handle = f.using(headers={"traceparent": PARENT}).enqueue()
    assert decode(rig.app.find(handle.id).payload, topic="default").headers == {"traceparent": PARENT}


def test_baggage_reaches_the_job(rig):
    seen = []
    f = job(registry=rig.registry, name="f")(lambda: seen.append(baggage.get_baggage("tenant")))
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    try:
        f.enqueue()
    finally:
        context.detach(token)
    rig.work()
    assert seen == ["acme"]


def test_a_refused_enqueue_is_a_span_with_its_error(rig):
    f = job(registry=rig.registry, name="f", unique=Unique("k", conflict="raise"))(lambda: None)
    f.enqueue()
    with pytest.raises(DuplicateJob):
        f.enqueue()
    refused = rig.spans("send default")[1]
    assert refused.attributes["error.type"] == "jobs_core.errors.DuplicateJob"
    assert refused.status.status_code is StatusCode.ERROR


def test_durations_of_runs_have_exemplars_that_name_their_traces(rig):
    job(registry=rig.registry, name="f")(lambda: None).enqueue()
    rig.work()
    (point,) = rig.points("messaging.process.duration")
    assert point.count == 1
    assert dict(point.attributes) == {
        "messaging.system": "jobs",
        "messaging.operation.name": "process",
        "messaging.destination.name": "default",
    }
    assert [exemplar.trace_id for exemplar in point.exemplars] == [rig.span("process default").context.trace_id]
    (consumed,) = rig.points("messaging.client.consumed.messages")
    assert consumed.value == 1


def test_no_span_is_left_over(rig):
    f = job(registry=rig.registry, name="f")(lambda: None)
    for _ in range(5):
        f.enqueue()
    rig.work()
    hooks = [found.function.__self__ for found in rig.app.plugins.implementations("jobs_job_finished")]
    assert hooks[0]._spans == {}
