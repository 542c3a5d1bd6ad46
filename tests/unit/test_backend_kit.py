"""The parts from which backends are built."""

from __future__ import annotations

import inspect
import os
import pkgutil
import re
import signal
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs_core import backend_kit, failpoints
from jobs_core.backend_kit import SelfPipe, Timers, doubled, peek, read_url, unsigned, with_failpoints
from jobs_core.backends.base import Backend, Operable
from jobs_core.backends.sqlite import engine
from jobs_core.errors import BackendError, BackendUnavailable
from jobs_core.message import Signer
from jobs_core.supervisor.processes.backoff import RestartBackoff

from ..support.project import PATIENCE

# -- the self-pipe ---------------------------------------------------------------------------------


def test_a_wake_up_ends_one_wait_whether_it_came_before_or_during_it():
    pipe = SelfPipe()
    pipe.wake()
    pipe.wake()
    assert pipe.wait(PATIENCE)
    assert not pipe.wait(0.0)
    threading.Timer(0.05, pipe.wake).start()
    assert pipe.wait(PATIENCE)


def test_a_full_pipe_blocks_no_wake_up():
    pipe = SelfPipe()
    for _ in range(100_000):
        pipe.wake()
    assert pipe.clear()


def test_a_signal_handler_may_wake():
    pipe = SelfPipe()
    before = signal.signal(signal.SIGALRM, lambda *_: pipe.wake())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert pipe.wait(PATIENCE)
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_its_descriptors_are_closed_once(how):
    pipe = SelfPipe()
    first = pipe.fileno()
    if how == "closed":
        pipe.close()
        pipe.close()
        pipe.wake()
        assert not pipe.clear()
        assert pipe.fileno() == -1
    else:
        del pipe
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first)


# -- timers and pauses -----------------------------------------------------------------------------


def test_timers_are_due_in_their_order_and_not_once_they_are_cancelled():
    timers, called = Timers(), []
    assert timers.pause() is None
    timers.after(60.0, lambda: called.append("late"))
    timers.after(-1.0, lambda: called.append("first"))
    second = timers.after(0.0, lambda: called.append("cancelled by the first"))
    timers.after(0.0, second.cancel)
    timers.after(0.0, lambda: called.append("last"))
    second.cancel()
    for callback in timers.due():
        callback()
    assert called == ["first", "last"]
    assert 59.0 < (timers.pause() or 0.0) <= 60.0


@given(st.floats(0.001, 100.0), st.integers(0, 10**9), st.floats(0.001, 1e9))
def test_a_pause_doubles_up_to_the_longest_however_often(first, times, longest):
    assert doubled(first, times, longest) == min(longest, first * 2.0 ** min(times, 100))


def test_a_process_that_keeps_dying_for_a_night_is_still_started_again():
    backoff = RestartBackoff()
    for _ in range(2000):
        backoff.died(0.0)
    assert 29.0 < backoff.left() <= 30.0


# -- messages of other programs --------------------------------------------------------------------

GOOD = {"v": 1, "topic": "mail"}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, ("", 0, None, None)),
        ({"id": "x", "priority": 9, "delay": 2.5}, ("x", 9, 2.5, None)),
        ({"unique": {"key": "k"}, "args": [1]}, ("", 0, None, "k")),
    ],
)
def test_a_peek_finds_the_fields_that_a_queue_acts_on(fields, found, signed):
    payload = msgspec.json.encode({**GOOD, **fields})
    envelope = peek(unsigned(Signer(["k:0123456789abcdef"]).sign(payload) if signed else payload))
    assert envelope is not None
    unique = envelope.unique.key if envelope.unique else None
    assert (envelope.id, envelope.priority, envelope.delay, unique) == found


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b"[" * 10_000, b"\xff", b"jobs1.k.0\n" + msgspec.json.encode(GOOD), b"null"]
    + [
        msgspec.json.encode({**GOOD, **fields})
        for fields in ({"v": "1"}, {"id": "x" * 129}, {"priority": 10}, {"delay": -1}, {"delay": 1e10}, {"unique": {}})
    ],
)
def test_a_peek_at_anything_else_finds_nothing(payload):
    assert peek(payload) is None


# -- URLs ------------------------------------------------------------------------------------------


def url(text: str):
    return read_url(text, ("wait", "kind"), "The form: mine://host")


@pytest.mark.parametrize(
    ("hosts", "found"),
    [
        ("", (("localhost", 7),)),
        ("h", (("h", 7),)),
        ("h:1,[::1]:2,[::1]", (("h", 1), ("::1", 2), ("::1", 7))),
    ],
)
def test_hosts_are_read_with_their_ports(hosts, found):
    assert url(f"mine://{hosts}/x").addresses(7, "localhost") == found


@pytest.mark.parametrize(
    ("text", "read", "why"),
    [
        ("mine://h:0", lambda url: url.addresses(7), "the port is not a number from 1 to 65535"),
        ("mine://h:65536", lambda url: url.addresses(7), "the port is not a number from 1 to 65535"),
        ("mine://h:", lambda url: url.addresses(7), "the port is not a number from 1 to 65535"),
        ("mine://h,:1", lambda url: url.addresses(7), "the host is missing"),
        ("mine://h?wait=soon", lambda url: url.duration("wait"), "wait: expected"),
        ("mine://h?wait=2h", lambda url: url.duration("wait", 1, 3600), "wait=2h: expected 1 to 3600 seconds"),
        ("mine://h?kind=x", lambda url: url.choice("kind", "a", "b"), "kind=x: expected a or b"),
        ("mine://h/x", lambda url: url.integer(url.path, "the database"), "'x' is not a number"),
        ("mine://u:secret@h/x", lambda url: url.integer(url.path, "the database"), "the database is not a number"),
        ("mine://h?other=1", lambda url: url, "unknown parameter other; valid parameters are kind, wait"),
    ],
)
def test_an_error_names_the_part_and_the_forms_and_no_secret(text, read, why):
    with pytest.raises(BackendError) as failed:
        read(url(text))
    assert why in str(failed.value)
    assert str(failed.value).endswith(". The form: mine://host")
    assert "secret" not in str(failed.value)


def test_parameters_are_read_by_their_kind():
    parts = url("mine://h?wait=1m&kind=b")
    assert (parts.duration("wait"), parts.choice("kind", "a", "b")) == (60.0, "b")
    assert (url("mine://h").duration("wait"), url("mine://h").choice("kind", "a", "b")) == (None, "a")
    assert url("mine://h?wait=2.5").duration("wait") == 2.5


# -- fail points -----------------------------------------------------------------------------------


class Recorder:
    """A backend as far as fail points are concerned."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def push(self, *, request: str = "") -> str:
        self.calls.append("push")
        return request

    def reserve(self) -> None:
        self.calls.append("reserve")

    def take_later(self) -> None:
        self.calls.append("take_later")

    def counts(self) -> None:
        self.calls.append("counts")


def test_set_fail_points_are_visited_around_each_operation(monkeypatch):
    backend = Recorder()
    monkeypatch.setattr(failpoints, "failpoint", backend.calls.append)
    assert with_failpoints(backend, {"take_later": "reserve"}) is backend
    assert backend.push(request="r") == "r"
    backend.reserve()
    backend.take_later()
    backend.counts()
    assert backend.calls == [
        *("push.before_commit", "push", "push.after_commit"),
        *("reserve.before_commit", "reserve", "reserve.after_commit"),
        *("reserve.before_commit", "take_later", "reserve.after_commit"),
        "counts",
    ]


def test_a_call_that_fails_has_no_point_after_it(monkeypatch):
    monkeypatch.setattr(failpoints, "failpoint", failpoints.parse("push.before_commit=raise"))
    backend = with_failpoints(Recorder())
    with pytest.raises(BackendUnavailable, match=r"push\.before_commit"):
        backend.push()
    assert backend.calls == []


def test_without_fail_points_a_backend_is_left_as_it_is():
    backend = with_failpoints(Recorder())
    assert vars(backend) == {"calls": []}


def test_a_fork_can_set_them_in_all_modules():
    failpoints.arm("x=raise")
    try:
        with pytest.raises(BackendUnavailable):
            backend_kit.failpoint("x")
        assert with_failpoints(Recorder()).push.__wrapped__
    finally:
        armed = failpoints.failpoint
        for module in [module for module in sys.modules.values() if vars(module).get("failpoint") is armed]:
            vars(module)["failpoint"] = failpoints._none


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("jobs_core.failpoints.failpoint", backend_kit.failpoint),
        ("jobs_core.deadline.left", backend_kit.left),
        ("jobs_core.deadline.addresses", backend_kit.addresses),
        ("jobs_core.units.MAX_SECONDS", backend_kit.MAX_SECONDS),
        ("jobs_core.ids.new_id", backend_kit.new_id),
        ("jobs_core.urls.read", backend_kit.read_url),
        ("jobs_core.backends.sqlite.backend.parse_url", engine.parse_url),
    ],
)
def test_the_places_where_authors_found_parts_before_still_have_them(old, new):
    assert pkgutil.resolve_name(old) is new


def methods():
    """Yield the row of each method of a backend: its call, and whether it is needed, or for which feature."""
    for kind in (Backend, Operable):
        for name, method in vars(kind).items():
            if not name.startswith("_") and inspect.isfunction(method):
                call = f"{name}({', '.join([*inspect.signature(method).parameters][1:])})"
                feature = re.search(r"NotSupported \((\w+)[,)]", method.__doc__ or "")
                optional = f"`{feature[1]}`" if feature else "has a default"
                yield call, "yes" if getattr(method, "__isabstractmethod__", False) else optional


def test_every_method_is_documented_with_its_parameters_and_whether_it_is_needed():
    page = (Path(__file__).parents[2] / "docs/backend-authors.md").read_text()
    section = page.partition("## The methods")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+\))` \| (.*?) \| .+ \|$", section, re.MULTILINE)
    assert sorted(rows) == sorted(methods())


def test_every_part_is_documented():
    """Authors find each part in the docs."""
    page = (Path(__file__).parents[2] / "docs/backend-authors.md").read_text()
    assert [name for name in backend_kit.__all__ if f"`{name}" not in page] == []
