"""Our codec writes and reads what pika would, however the stream is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import exceptions, frame, spec
from pika.spec import BasicProperties

from jobs_rabbitmq.transport.frames import Plain, Reader, content, publish_method

LARGEST = 40
texts = st.text(max_size=30)
plain = st.builds(Plain, texts, st.integers(0, 2**63))
others = st.builds(
    BasicProperties,
    content_type=st.none() | st.just("application/json") | texts,
    headers=st.none() | st.just({"x-jobs-attempt": 3}),
    delivery_mode=st.sampled_from([None, 1, 2]),
    priority=st.none() | st.integers(0, 9),
    message_id=st.none() | texts,
    timestamp=st.none() | st.integers(0, 2**63),
    app_id=st.sampled_from([None, "jobs", "ab\x04jobs"]),
)
properties = plain | others
bodies = st.binary(max_size=100)


class Receiver:
    def __init__(self, *, confirming=True):
        self.events = []
        self.confirming = confirming

    def delivered(self, channel, tag, again, consumer, properties, body):
        self.events.append(("delivered", channel, tag, again, consumer, said(properties), body))

    def confirmed(self, channel, tag, multiple):
        if self.confirming:
            self.events.append(("confirmed", channel, tag, multiple))
        return self.confirming

    def other(self, data):
        self.events.append(("other", data))
        return True


def said(properties):
    return b"".join(properties.encode())


def delivery(channel, tag, properties, body):
    method = frame.Method(channel, spec.Basic.Deliver(f"jobs-{tag}", tag, tag % 2 == 1, "", "jobs.default"))
    return method.marshal() + written(channel, properties, body)


def written(channel, properties, body):
    """Return a message's content as pika writes it."""
    pieces = [body[start : start + LARGEST] for start in range(0, len(body), LARGEST)]
    frames = [frame.Header(channel, len(body), properties), *(frame.Body(channel, piece) for piece in pieces)]
    return b"".join(each.marshal() for each in frames)


@given(properties, bodies)
def test_a_message_is_written_as_pika_writes_it(properties, body):
    assert content(1, properties, body, LARGEST) == written(1, properties, body)


def test_where_a_message_goes_is_written_as_pika_writes_it():
    method = spec.Basic.Publish(exchange="jobs:delay.03", routing_key="0.1.jobs.e-mäil", mandatory=True)
    assert publish_method(7, "jobs:delay.03", "0.1.jobs.e-mäil") == frame.Method(7, method).marshal()


@st.composite
def streams(draw):
    """Frames that a broker may send, and what they mean."""
    sent, events = [], []
    for tag in range(1, draw(st.integers(1, 8))):
        channel = draw(st.integers(1, 3))
        kind = draw(st.sampled_from(["delivery", "delivery", "confirm", "heartbeat", "fetched"]))
        if kind == "delivery":
            its, body = draw(properties), draw(bodies)
            sent.append(delivery(channel, tag, its, body))
            events.append(("delivered", channel, tag, tag % 2 == 1, f"jobs-{tag}", said(its), body))
        elif kind == "confirm":
            sent.append(frame.Method(channel, spec.Basic.Ack(tag, multiple=tag % 2 == 0)).marshal())
            events.append(("confirmed", channel, tag, tag % 2 == 0))
        elif kind == "heartbeat":
            sent.append(frame.Heartbeat().marshal())
            events.append(("other", sent[-1]))
        else:
            method = frame.Method(channel, spec.Basic.GetOk(tag, False, "", "jobs.default", 0)).marshal()
            header, body = frame.Header(channel, 3, draw(properties)).marshal(), frame.Body(channel, b"abc").marshal()
            sent.append(method + header + body)
            events += [("other", method), ("other", header), ("other", body)]
    return b"".join(sent), events


@given(streams(), st.lists(st.integers(1, 60), max_size=40))
def test_a_stream_is_read_the_same_however_it_is_cut(stream, cuts):
    data, events = stream
    receiver = Receiver()
    reader = Reader(receiver, receiver.other)
    ours, at = 0, 0
    for cut in [*cuts, len(data)]:
        ours += reader.feed(data[at : at + cut])
        at += cut
    assert receiver.events == events
    assert ours == len(data) - sum(len(event[1]) for event in events if event[0] == "other")


def test_deliveries_of_two_channels_may_be_mixed():
    receiver = Receiver()
    reader = Reader(receiver, receiver.other)
    first, second = delivery(1, 1, Plain("a", 1), b"x" * 70), delivery(2, 2, Plain("b", 2), b"y")
    head = len(first) - len(frame.Body(1, b"x" * 30).marshal())
    reader.feed(first[:head] + second + first[head:])
    assert [(event[1], event[6]) for event in receiver.events] == [(2, b"y"), (1, b"x" * 70)]


def test_confirms_are_left_to_pika_on_a_channel_that_does_not_take_them():
    receiver = Receiver(confirming=False)
    ack = frame.Method(1, spec.Basic.Ack(1)).marshal()
    assert Reader(receiver, receiver.other).feed(ack) == 0
    assert receiver.events == [("other", ack)]


def test_nothing_is_read_behind_the_frame_that_ended_the_connection():
    receiver = Receiver()
    close = frame.Method(0, spec.Connection.Close(320, "bye", 0, 0)).marshal()
    Reader(receiver, lambda _: False).feed(close + delivery(1, 1, Plain("a", 1), b"x"))
    assert receiver.events == []


@pytest.mark.parametrize("data", [b"AMQP\x00\x00\x09\x01", frame.Heartbeat().marshal()[:-1] + b"\x00"])
def test_invalid_frames_are_reported_by_pika(data):
    receiver = Receiver()
    Reader(receiver, receiver.other).feed(data)
    assert receiver.events == [("other", data)]
    if not data.startswith(b"AMQP"):
        with pytest.raises(exceptions.InvalidFrameError):
            frame.decode_frame(data)
