"""Unique keys of a queue with a store beside it, with faults at every point between the key and the queue.

No producer is answered with a job that is not in the queue, none is refused because of one, and of the jobs under one key
one runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jobs_core.backends import auxstore
from jobs_core.backends.auxstore import AuxStore, composed
from jobs_core.backends.base import BackendOptions, Outcome, Outgoing, Settlement, State
from jobs_core.backends.sqlite import SqliteBackend
from jobs_core.errors import BackendError, BackendUnavailable, QueueFull
from jobs_core.ids import new_token
from jobs_core.message import UniqueKey
from jobs_core.testing.services.redis import RedisServer
from jobs_redis.backend import RedisBackend
from jobs_redis.url import parse

from ..contract.test_beside import PlainQueue

SCOPES = ("queued", "done", 3600.0)
KEPT = BackendOptions()


class Killed(BaseException):
    """Raised where the producer dies."""


class Faulty(PlainQueue):
    """A queue whose next push has a given outcome, before or after it has stored the messages."""

    before: BaseException | None = None
    after: BaseException | None = None

    def push(self, messages, request):
        if self.before:
            raise self.before
        answer = super().push(messages, request)
        if self.after:
            raise self.after
        return answer


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def connect(request, tmp_path) -> Iterator[Callable[..., AuxStore]]:
    """Return a function that connects to the pair: `connect(owner=None)`."""
    url, opened = f"memory://{new_token()}", []

    def store() -> Any:
        if request.param == "sqlite":
            return SqliteBackend(f"sqlite:///{tmp_path}/results.db", KEPT)
        server = request.getfixturevalue("redis_server")
        return RedisBackend(parse(f"redis://127.0.0.1:{server.port}?prefix={url[9:]}"), KEPT)

    def connected(owner: str | None = None) -> AuxStore:
        pair = composed(Faulty(url, KEPT), store())
        pair.open(owner)
        opened.append(pair)
        return pair

    yield connected
    for pair in opened:
        pair.close()


def one(job_id: str, scope: Any, conflict: Any = "drop") -> Outgoing:
    return Outgoing(job_id, "t", b"{}", unique=UniqueKey("key", scope, conflict))


def run(worker: AuxStore) -> list[str]:
    """Run all jobs in the queue; return those that ran."""
    ran: list[str] = []
    while deliveries := worker.reserve(["t"], 10, new_token()):
        ran += [delivery.id for delivery in deliveries]
        worker.settle([Settlement(one.id, one.token, Outcome.DONE) for one in deliveries], new_token())
    return ran


def at_point(name: str, action: Callable[[], Any], monkeypatch) -> None:
    """Call a function at a fail point, once."""
    left = [name]

    def failpoint(point: str) -> None:
        if point in left:
            left.remove(point)
            action()

    monkeypatch.setattr(auxstore, "failpoint", failpoint)


def dies() -> None:
    raise Killed


def is_away() -> None:
    raise BackendUnavailable("the store is gone")


FAULTS = {
    "refused": lambda pair, patch: setattr(pair.queue, "before", QueueFull("full")),
    "outage": lambda pair, patch: setattr(pair.queue, "before", BackendUnavailable("gone")),
    "error": lambda pair, patch: setattr(pair.queue, "before", BackendError("no such queue")),
    "reply lost": lambda pair, patch: setattr(pair.queue, "after", BackendUnavailable("gone")),
    "killed with the key": lambda pair, patch: at_point("push.keys_taken", dies, patch),
    "killed before the answer": lambda pair, patch: setattr(pair.queue, "after", Killed()),
    "killed before the key is bound": lambda pair, patch: at_point("push.before_bind", dies, patch),
    "store away": lambda pair, patch: at_point("push.before_bind", is_away, patch),
}


@pytest.mark.parametrize("conflict", ["drop", "replace", "raise"])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_enqueue_blocks_no_later_one(connect, monkeypatch, fault, scope, conflict):
    failing, other = connect(), connect()
    FAULTS[fault](failing, monkeypatch)
    with pytest.raises((BackendError, Killed)):
        failing.push([one("failed", scope)], "r1")
    assert other.push([one("second", scope, conflict)], "r2") == {}
    assert other.push([one("third", scope)], "r3") == {"third": "second"}  # whose enqueue succeeded
    assert run(connect("w")) == ["second"]
    assert other.get("failed").state is State.CANCELLED


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("fault", ["outage", "reply lost", "store away"])
def test_an_enqueue_that_is_repeated_after_a_fault_comes_off_once(connect, monkeypatch, fault, scope):
    pair = connect()
    FAULTS[fault](pair, monkeypatch)
    with pytest.raises(BackendError):
        pair.push([one("first", scope)], "r1")
    pair.queue.before = pair.queue.after = None
    assert pair.push([one("first", scope)], "r1") == {}
    assert pair.push([one("second", scope)], "r2") == {"second": "first"}
    assert run(connect("w")) == ["first"]


@pytest.mark.parametrize("scope", SCOPES)
def test_duplicates_in_one_enqueue_get_the_first_or_replace_it(connect, scope):
    pair = connect()
    assert pair.push([one("a", scope), one("b", scope), one("c", scope)], "r1") == {"b": "a", "c": "a"}
    assert pair.push([one("d", scope, "replace"), one("e", scope, "replace"), one("f", scope)], "r2") == {"d": "e", "f": "e"}
    assert run(connect("w")) == ["e"]


@pytest.mark.parametrize("point", ["push.keys_taken", "push.before_bind"])
@pytest.mark.parametrize("scope", SCOPES)
def test_of_two_simultaneous_enqueues_both_return_the_job_that_runs(connect, monkeypatch, point, scope):
    slow, quick = connect(), connect()
    answers: list[Any] = []
    at_point(point, lambda: answers.append(quick.push([one("quick", scope)], "r2")), monkeypatch)
    assert slow.push([one("slow", scope)], "r1") == {"slow": "quick"}
    assert answers == [{}]
    assert run(connect("w")) == ["quick"]


def test_a_key_taken_over_by_another_failing_enqueue_is_not_returned(connect, monkeypatch):
    slow, failing = connect(), connect()
    failing.queue.before = BackendUnavailable("gone")

    def meanwhile() -> None:
        with pytest.raises(BackendUnavailable):
            failing.push([one("failed", "done")], "r2")

    at_point("push.before_bind", meanwhile, monkeypatch)
    with pytest.raises(BackendUnavailable, match="in progress"):
        slow.push([one("slow", "done")], "r1")


@pytest.mark.parametrize("scope", SCOPES)
def test_a_job_that_has_run_before_its_key_is_bound_holds_it_no_longer_than_else(connect, monkeypatch, scope):
    pair = connect()
    worker = connect("w")
    at_point("push.before_bind", lambda: run(worker), monkeypatch)
    assert pair.push([one("first", scope)], "r1") == {}
    assert pair.push([one("second", scope)], "r2") == ({"second": "first"} if scope == 3600.0 else {})


@pytest.mark.parametrize("scope", SCOPES)
def test_a_job_that_runs_before_its_key_is_bound_is_not_cancelled(connect, monkeypatch, scope):
    pair, worker, other = connect(), connect("w"), connect()
    answers: list[Any] = []

    def meanwhile() -> None:
        assert [delivery.id for delivery in worker.reserve(["t"], 1, new_token())] == ["first"]
        answers.append(other.push([one("second", scope)], "r2"))

    at_point("push.before_bind", meanwhile, monkeypatch)
    assert pair.push([one("first", scope)], "r1") == {}
    assert answers == [{} if scope == "queued" else {"second": "first"}]
