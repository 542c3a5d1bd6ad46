"""The messages between the supervisor and its children."""

from __future__ import annotations

import os
import socket
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from jobs_core.supervisor.processes.children import Children
from jobs_core.supervisor.system.channel import Channel
from jobs_core.supervisor.system.loop import Loop
from jobs_core.supervisor.system.messages import CallHook, FromChild, Ready, ToChild, ToHousekeeper, ToWorker, WorkerSpec

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT, lambda inner: st.lists(inner), max_leaves=5
)


def message(kind: type) -> st.SearchStrategy[Any]:
    if kind is CallHook:
        return st.builds(CallHook, TEXT, st.dictionaries(TEXT, JSON))
    return st.builds(kind, **{field.name: OF[str(field.type)] for field in structs.fields(kind)})


NUMBER = st.integers(0, 2**40)
AGE = st.floats(0, 1e9)
OF: dict[str, st.SearchStrategy[Any]] = {
    str(str): TEXT,
    str(bool): st.booleans(),
    str(int): NUMBER,
    str(float): AGE,
    "int | None": st.none() | NUMBER,
    "list[str]": st.lists(TEXT),
    "list[list[str]]": st.lists(st.lists(TEXT)),
    "dict[str, tuple[int, float | None]]": st.dictionaries(TEXT, st.tuples(NUMBER, st.none() | AGE)),
}


@pytest.mark.parametrize(
    ("kind", "union"),
    [
        *((kind, FromChild) for kind in get_args(FromChild)),
        *((kind, ToWorker) for kind in get_args(ToWorker)),
        *((kind, ToHousekeeper) for kind in get_args(ToHousekeeper)),
        (WorkerSpec, WorkerSpec),
    ],
)
def test_every_message_arrives_as_it_was_sent(kind: type, union: Any):
    ours, theirs = Channel[Any].pair(union)
    other: Channel[Any] = Channel.of(theirs)

    @given(message(kind))
    def check(sent: Any) -> None:
        assert other.send(sent)
        assert ours.receive() == (sent, [])

    try:
        check()
    finally:
        ours.close()
        other.close()


def test_every_message_has_a_receiver():
    assert set(get_args(ToChild)) == {WorkerSpec, *get_args(ToWorker), *get_args(ToHousekeeper)}


@pytest.mark.parametrize(
    "garbage",
    [b"x", b"\xff\xfe", b"{", b"null", b"[]", b"{}", b"7", b'{"is": "ready"}',
     b'{"type": "Stop"}', b'{"type": "Due"}', b'{"type": "Due", "reason": 7}'],
)  # fmt: skip
def test_data_written_by_a_job_into_its_workers_channel_changes_nothing(garbage: bytes):
    loop, heard = Loop(), []
    children = Children(loop, lambda child, last: None)

    def hear(message: FromChild) -> None:
        heard.append(message)
        loop.stop()

    child, ends = children.prepare("worker", hear, lambda ended: None)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=os.dup(ends.control)) as job:
        job.send(garbage)
    worker: Channel[Any] = Channel.of(os.dup(ends.control))
    worker.send(Ready())
    loop.run()
    assert heard == [Ready()]
    worker.close()
    ends.close()
    children.forget(child)
    loop.close()
