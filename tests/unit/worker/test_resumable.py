"""A resumable job continues from its last cursor, whatever ended its last run; in all three kinds of pools."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from jobs_core import CheckpointError, JobDefinitionError, Retry, Snooze, current_job, job
from jobs_core.app import App
from jobs_core.backends.base import Outcome, State
from jobs_core.backends.memory import MemoryBackend
from jobs_core.config import Config, Pool
from jobs_core.errors import BackendError, BackendUnavailable, NotSupported
from jobs_core.registry import default_registry
from jobs_core.runs import progress
from jobs_core.worker import checkpoints
from jobs_core.worker.main import Worker, prepare

from ...support.project import PATIENCE, until

MODES = ("sync", "threads", "async")


@pytest.fixture(autouse=True)
def _jobs_of_the_test_alone(monkeypatch):
    monkeypatch.setattr(default_registry, "_jobs", {})


def serve(app: App, mode: str = "sync", *, stop_when: Callable[[], Any] | None = None, **options: Any) -> Worker:
    """Run a worker until nothing is left to do, or until it is stopped because a condition holds."""
    worker = Worker(app, "p", Pool(mode=mode, concurrency=2), None, drain=stop_when is None, **options)

    def stop() -> None:
        assert stop_when is not None
        try:
            until(stop_when)
        finally:
            worker.courier.stop()

    stopping = threading.Thread(target=stop)
    if stop_when is not None:
        stopping.start()
    worker.run()
    if stop_when is not None:
        stopping.join()
    return worker


def record(app: App, job_id: str) -> Any:
    return app.operate(lambda backend: backend.get(job_id))


ROWS = list(range(100))


def rows_after(cursor: int | None) -> Iterator[int]:
    return iter(ROWS[(-1 if cursor is None else cursor) + 1 :])


async def arows_after(cursor: int | None) -> AsyncIterator[int]:
    for row in rows_after(cursor):
        yield row


async def all_rows() -> AsyncIterator[int]:
    for row in ROWS:
        yield row


SOURCES: dict[str, tuple[Any, Any]] = {
    "a function": (rows_after, lambda row: row),
    "a list": (ROWS, None),
    "a range": (range(100), None),
    "an iterator": (lambda: iter(ROWS), None),
    "a dict": (dict.fromkeys(ROWS), None),
    "a list with cursors": (ROWS, lambda row: row),
    "an iterator with cursors that are tuples": (lambda: iter(ROWS), lambda row: ("at", row)),
}
"""What `steps` takes: items (iterators are made anew for each run), and the cursor of a row."""

ASYNC_SOURCES: dict[str, tuple[Any, Any]] = {
    "an async generator function": (arows_after, lambda row: row),
    "an async iterator": (lambda: all_rows(), None),
    "an async iterator with cursors": (lambda: all_rows(), lambda row: [row]),
}


def fresh(items: Any) -> Any:
    """Return the items for one run."""
    return items() if getattr(items, "__name__", "") == "<lambda>" else items


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("mode", MODES)
def test_a_stopped_worker_hands_the_job_back_and_another_repeats_no_step(app, registry, mode, source):
    seen: list[int] = []
    runs: list[tuple[int, int]] = []
    items, cursor = SOURCES[source]
    gate = threading.Event()

    @job(registry=registry, name="walk", resumable=True)
    def walk() -> None:
        runs.append((current_job().attempt, current_job().redeliveries))
        for row in current_job().steps(fresh(items), cursor=cursor):
            seen.append(row)
            if len(seen) == 30:
                gate.wait(PATIENCE)  # until the worker was told to stop

    handle = walk.enqueue()

    def told() -> bool:
        if len(seen) == 30:
            threading.Timer(0.0, lambda: (until(lambda: worker.courier._stopping), gate.set())).start()
        return len(seen) == 30

    worker = Worker(app, "p", Pool(mode=mode, concurrency=2), None)
    stopping = threading.Thread(target=lambda: (until(told), worker.courier.stop()))
    stopping.start()
    worker.run()
    stopping.join()
    assert seen == ROWS[:30]
    found = record(app, handle.id)
    assert (found.state, found.attempt, found.deferrals, found.redeliveries) == (State.READY, 0, 0, 0)
    assert found.cursor
    gate.set()
    serve(app, mode)
    assert seen == ROWS
    assert runs == [(1, 0), (1, 0)]
    assert record(app, handle.id) is None


@pytest.mark.parametrize("source", ASYNC_SOURCES)
@pytest.mark.parametrize("mode", MODES)
def test_an_async_job_steps_through_async_rows(app, registry, mode, source):
    seen: list[int] = []
    items, cursor = ASYNC_SOURCES[source]

    @job(registry=registry, name="walk", resumable=True, retries=3, backoff=0)
    async def walk() -> None:
        async for row in current_job().steps(fresh(items), cursor=cursor):
            if row in (10, 60) and current_job().attempt == (1 if row == 10 else 2):
                raise ValueError(row)
            seen.append(row)

    walk.enqueue()
    serve(app, mode)
    assert seen == ROWS


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("end", [ValueError("it failed"), Retry(delay=0), Snooze(0)], ids=lambda end: type(end).__name__)
def test_every_end_after_which_a_job_runs_again_keeps_its_cursor(app, registry, mode, end):
    seen: list[int] = []

    @job(registry=registry, name="walk", resumable=True, backoff=0)
    def walk() -> None:
        for row in current_job().steps(ROWS):
            if row == 50 and len(seen) == 50:
                seen.append(row)
                raise end
            seen.append(row)

    walk.enqueue()
    serve(app, mode)
    assert seen == [*ROWS[:51], *ROWS[50:]], "the failed step is repeated, and no other"


def test_a_dead_letter_that_is_retried_continues(app, registry):
    seen: list[int] = []

    @job(registry=registry, name="walk", resumable=True, retries=0)
    def walk() -> None:
        for row in current_job().steps(ROWS):
            seen.append(row)
            if len(seen) == 40:
                raise ValueError

    handle = walk.enqueue()
    serve(app)
    assert record(app, handle.id).state is State.DEAD
    app.operate(lambda backend: backend.requeue([handle.id]))
    serve(app)
    assert seen == [*ROWS[:40], *ROWS[39:]]


def test_a_job_has_several_loops_and_a_state(app, registry):
    told: list[Any] = []

    @job(registry=registry, name="walk", resumable=True, retries=20, backoff=0)
    def walk() -> None:
        context, attempt = current_job(), current_job().attempt
        told.append(("start", context.cursor))
        for row in context.steps("ab"):
            if attempt == 1 and row == "b":
                raise ValueError
            told.append(row)
            context.checkpoint({"seen": row})
        if attempt == 2:
            raise ValueError
        for row in context.steps("cd"):
            told.append(row)
            if row == "c":
                break
        for row in context.steps("efg"):
            if attempt == 3 and row == "g":
                raise ValueError
            told.append(row)
        context.checkpoint("all")
        if attempt == 4:
            raise ValueError
        told.append(("end", context.cursor))

    walk.enqueue()
    serve(app)
    state = {"seen": "b"}
    assert told == [
        ("start", None), "a",
        ("start", {"seen": "a"}), "b",
        ("start", state), "c", "e", "f",
        ("start", state), "g",
        ("start", "all"), ("end", "all"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("after_break", "stored"),
    [((), "in step b"), (("after it",), "after it"), (("after it", "and again"), "and again")],
    ids=["no later state", "a later state", "two later states"],
)
def test_the_state_of_a_step_that_is_left_by_break_is_kept_until_a_later_one(jobs_queue, after_break, stored):
    """The loop is over when the next one begins, so its last state has to be stored by then, and no later one overwritten."""
    told: list[Any] = []

    @job(name="walk", resumable=True, retries=2, backoff=0)
    def walk() -> None:
        context = current_job()
        for row in context.steps("abc"):
            told.append(row)
            context.checkpoint(f"in step {row}")
            if row == "b":
                break
        for state in after_break if context.attempt == 1 else ():
            context.checkpoint(state)
        for row in context.steps("xyz"):
            told.append((row, context.cursor))
            if row == {1: "x", 2: "y"}.get(context.attempt):
                raise ValueError(row)

    walk.enqueue()
    jobs_queue.drain(raise_errors=False)
    assert told == ["a", "b", *[(row, stored) for row in "xxyyz"]]


def test_the_state_of_a_step_is_stored_only_together_with_its_cursor(app, registry):
    """A step that fails after it has saved its total must not be added to it twice."""

    @job(registry=registry, name="add", resumable=True, backoff=0, store_result=True)
    def add() -> int:
        context = current_job()
        total = context.cursor if context.attempt > 1 else 0
        for row in context.steps(ROWS):
            total += row
            context.checkpoint(total)
            if row == 50 and context.attempt == 1:
                raise ValueError
        return total

    handle = add.enqueue()
    serve(app)
    assert handle.result(timeout=1) == sum(ROWS)


@pytest.mark.parametrize("mode", MODES)
def test_cursors_are_stored_while_the_job_runs_and_together(app, registry, mode, monkeypatch):
    monkeypatch.setattr(checkpoints, "CHECKPOINT_INTERVAL", 0.05)
    calls: list[list[str]] = []
    go_on = threading.Event()
    monkeypatch.setattr(MemoryBackend, "checkpoint", _noting(MemoryBackend.checkpoint, calls))

    @job(registry=registry, name="walk", resumable=True)
    def walk() -> None:
        for row in current_job().steps(ROWS):
            if row == 7:
                go_on.wait(PATIENCE)

    handles = [walk.enqueue() for _ in range(2)]
    many = 1 if mode == "sync" else 2
    stored: list[bytes] = []

    def watch() -> bool:
        cursors = [record(app, handle.id).cursor for handle in handles]
        if sum(map(bool, cursors)) < many:
            return False
        stored.extend(filter(None, cursors))
        go_on.set()
        return True

    serve(app, mode, stop_when=lambda: go_on.is_set() or watch())
    assert stored == [b'{"cursor":7}'] * many
    assert all(len(call) <= 2 for call in calls)


def _noting(call: Callable[..., None], calls: list[list[str]]) -> Callable[..., None]:
    def checkpoint(self: Any, cursors: Any) -> None:
        calls.append([each.id for each in cursors])
        call(self, cursors)

    return checkpoint


def test_an_outage_while_cursors_are_stored_is_waited_out(app, registry, monkeypatch):
    monkeypatch.setattr(checkpoints, "CHECKPOINT_INTERVAL", 0.02)
    errors = [BackendUnavailable("away"), BackendError("refused")]
    done: list[int] = []
    stored = threading.Event()
    original = MemoryBackend.checkpoint

    def checkpoint(self: Any, cursors: Any) -> None:
        if errors:
            raise errors.pop(0)
        original(self, cursors)
        stored.set()

    monkeypatch.setattr(MemoryBackend, "checkpoint", checkpoint)

    @job(registry=registry, name="walk", resumable=True)
    def walk() -> None:
        for row in current_job().steps(range(3)):
            if row == 2:
                assert stored.wait(PATIENCE)
            done.append(row)

    walk.enqueue()
    serve(app)
    assert done == [0, 1, 2]
    assert not errors


@pytest.mark.parametrize("mode", MODES)
def test_the_stop_timeout_gives_up_the_job_with_its_cursor(app, registry, mode, monkeypatch):
    """A step that outlasts the stop timeout is repeated, and those before it are not."""
    abandoned: list[bool] = []
    monkeypatch.setattr(Worker, "abandoned", lambda self, replace: (abandoned.append(replace), release.set()))
    release = threading.Event()
    begun = threading.Event()

    @job(registry=registry, name="walk", resumable=True)
    def walk() -> None:
        for row in current_job().steps(ROWS):
            if row == 20:
                begun.set()
                release.wait(PATIENCE)

    handle = walk.enqueue()
    worker = Worker(app, "p", Pool(mode=mode, concurrency=2), None)
    stopping = threading.Thread(target=lambda: (begun.wait(PATIENCE), worker.courier.stop(0.0)))
    stopping.start()
    worker.run()
    stopping.join()
    found = record(app, handle.id)
    assert abandoned
    assert (found.state, found.cursor, found.attempt) == (State.READY, b'{"cursor":20}', 0)


def _raises_another_error() -> None:
    try:
        _walk()
    except BaseException as error:
        raise RuntimeError from error


def _returns() -> None:
    try:
        _walk()
    except BaseException:
        return


def _in_a_finally() -> None:
    try:
        _walk()
    finally:
        if current_job().stopping:
            raise OSError("the connection is closed")


async def _in_a_task_group() -> None:
    async with asyncio.TaskGroup():
        _walk()


def _walk() -> None:
    for row in current_job().steps(ROWS):
        SEEN.append(row)


SEEN: list[int] = []


@pytest.mark.parametrize("body", [_raises_another_error, _returns, _in_a_finally, _in_a_task_group])
def test_a_suspended_job_continues_whatever_its_clean_up_does(jobs_queue, body):
    """It has more steps to do, however it ends this run."""
    if body is _in_a_task_group and sys.version_info < (3, 11):
        body = _returns  # there are no task groups
    SEEN.clear()
    walk = job(name="walk", resumable=True, retries=0)(body)
    walk.enqueue()
    jobs_queue.drain(stop_after=30, raise_errors=False)
    assert ROWS[:30] == SEEN
    jobs_queue.drain()
    assert SEEN == ROWS


@pytest.mark.parametrize("mode", MODES)
def test_every_job_is_told_that_its_worker_stops(app, registry, mode):
    told: list[bool] = []
    begun = threading.Event()

    @job(registry=registry, name="wait")
    def wait() -> None:
        told.append(current_job().stopping)
        begun.set()
        until(lambda: current_job().stopping)
        told.append(True)

    wait.enqueue()
    serve(app, mode, stop_when=begun.is_set)
    assert told == [False, True]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
def test_a_timeout_may_be_one_of_each_step(app, registry, mode, is_async, monkeypatch):
    """Many steps together may take longer than the timeout of one; a single step may not."""
    monkeypatch.setattr(Worker, "due", lambda self, why: None)
    monkeypatch.setattr(Worker, "abandoned", lambda self, replace: None)
    seen: list[int] = []

    def pause(row: int) -> float:
        seen.append(row)
        return 10.0 if row == 12 and len(seen) <= 13 else 0.07  # 15 of which take longer than one may

    def until_over(seconds: float) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and not current_job()._run.interrupted:
            time.sleep(0.005)  # no event: this is the work of the step

    def walk() -> None:
        for row in current_job().steps(range(15)):
            until_over(pause(row))

    async def awalk() -> None:
        import asyncio

        for row in current_job().steps(range(15)):
            await asyncio.sleep(pause(row))

    made = job(registry=registry, name="walk", resumable=True, step_timeout=1.0, retries=1, backoff=0)(
        awalk if is_async else walk
    )
    handle = made.enqueue()
    serve(app, mode)
    found = record(app, handle.id)
    if found is not None:  # a plain function on a thread: the worker is replaced
        assert (mode, is_async) != ("sync", False)
        assert found.attempt == 1
        assert b"step_timeout of 1 s" in found.errors[0]
        serve(app, mode)
    late = mode != "sync" and not is_async  # such a step cannot be interrupted: it ends late, and the run with it
    assert seen == [*range(13), *range(13 if late else 12, 15)]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (object(), "of type object"),
        (b"x", "of type bytes"),
        ({1: 2}, "the key 1"),
        ({"a": [{"b": {1, 2}}]}, "of type set"),
        (float("nan"), "nan"),
        ([float("inf")], "inf"),
        ("\ud800", "cannot be written as JSON"),
        ("x" * 5000, "too large"),
        (State.READY, "of type State"),
        (type("Text", (str,), {})("x"), "of type Text"),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", str(value)),
)
def test_a_state_or_cursor_that_is_not_json_or_too_large_is_refused_with_its_fix(jobs_queue, registry, value, told):
    @job(name="saves", resumable=True)
    def saves() -> None:
        current_job().checkpoint(value)

    @job(name="steps", resumable=True)
    def steps() -> None:
        for _ in current_job().steps([1], cursor=lambda _: value):
            pass

    for each in (saves, steps):
        with pytest.raises(CheckpointError, match=told):
            jobs_queue.perform(each)


def test_the_next_run_gets_the_stored_cursor():
    for value in (None, True, 0, -1, 1.5, "x", "é\n", [], {}, {"a": [1, None, {"b": 2.0}]}, 2**63, -(2**90)):
        place = progress.Place(progress.encoded_as_json(value, "x"), 3, b"17")
        assert progress.place_of(place.document()) == place
        assert progress.Progress(place).cursor == value


@pytest.mark.parametrize("use", ["steps", "checkpoint", "cursor"])
def test_a_job_that_is_not_resumable_gets_an_error_that_says_so(jobs_queue, use):
    @job(name="plain")
    def plain() -> None:
        context = current_job()
        {"steps": lambda: context.steps([1]), "checkpoint": lambda: context.checkpoint(1), "cursor": lambda: context.cursor}[
            use
        ]()

    with pytest.raises(CheckpointError, match=rf"plain uses current_job\(\).{use}, but is not resumable.*resumable=True"):
        jobs_queue.perform(plain)


@pytest.mark.parametrize(
    ("items", "cursor", "told"),
    [
        ({1, 2}, None, "sorted"),
        (frozenset("ab"), lambda row: row, "sorted"),
        (lambda cursor: [1], None, "cursor=lambda row"),
        (lambda cursor: None, lambda row: 1, "NoneType"),
        (7, None, "expected an iterable"),
        (lambda cursor: _coroutine(), lambda row: 1, "async generator"),
    ],
)
def test_items_from_which_no_run_could_continue_are_refused(jobs_queue, items, cursor, told):
    @job(name="walk", resumable=True)
    def walk() -> None:
        for _ in current_job().steps(items, cursor=cursor):
            pass

    with pytest.raises(CheckpointError, match=told):
        jobs_queue.perform(walk)


async def _coroutine() -> list[int]:
    return [1]


def test_a_place_that_is_gone_is_an_error_and_not_the_end(jobs_queue):
    """Without the row of the cursor, going on anywhere would skip rows or repeat them."""
    rows = [1, 2, 3, 4]

    @job(name="walk", resumable=True)
    def walk() -> None:
        for _ in current_job().steps(iter(rows), cursor=lambda row: row):
            pass

    walk.enqueue()
    jobs_queue.drain(stop_after=2)
    rows.remove(2)
    with pytest.raises(CheckpointError, match="no row has the stored cursor 2"):
        jobs_queue.drain()


def test_one_loop_at_a_time(jobs_queue):
    @job(name="nests", resumable=True)
    def nests() -> None:
        for _ in current_job().steps("ab"):
            for _ in current_job().steps("cd"):
                pass

    with pytest.raises(CheckpointError, match="inside a loop"):
        jobs_queue.perform(nests)


def test_a_follow_up_that_a_suspension_would_lose_is_refused(jobs_queue):
    @job(name="sends")
    def sends() -> None: ...

    @job(name="walk", resumable=True)
    def walk(within: bool) -> None:
        for _ in current_job().steps("ab"):
            if within:
                current_job().enqueue(sends)
        current_job().enqueue(sends)

    with pytest.raises(CheckpointError, match=r"walk called current_job\(\).enqueue\(\) before a checkpoint"):
        jobs_queue.perform(walk, True)
    jobs_queue.perform(walk, False)
    jobs_queue.assert_enqueued(sends, count=1)


@pytest.mark.parametrize("by", ["steps", "checkpoint"])
def test_a_retry_does_not_pass_over_the_step_whose_follow_up_was_refused(jobs_queue, by):
    """Otherwise the retry would end well, and the follow-up would never be sent."""
    tried: list[str] = []

    @job(name="sends")
    def sends() -> None: ...

    @job(name="walk", resumable=True, retries=2, backoff=0)
    def walk() -> None:
        context = current_job()
        if by == "steps":
            for row in context.steps("abc"):
                tried.append(row)
                if row == "b":
                    context.enqueue(sends)
        for row in "abc"["abc".find(context.cursor or "") + (context.cursor is not None) :]:
            tried.append(row)
            if row == "b":
                context.enqueue(sends)
            context.checkpoint(row)

    walk.enqueue()
    jobs_queue.drain(raise_errors=False)
    assert tried == ["a", "b", "b", "b"]
    (letter,) = jobs_queue.dead()
    assert b"before a checkpoint" in letter.errors[-1]


def test_options_that_do_not_fit_are_refused(registry):
    with pytest.raises(JobDefinitionError, match="resumable.*acks"):
        job(registry=registry, resumable=True, acks="early")(lambda: None)
    with pytest.raises(JobDefinitionError, match="step_timeout.*resumable=True"):
        job(registry=registry, step_timeout=5)(lambda: None)
    with pytest.raises(JobDefinitionError, match="resumable: expected True or False"):
        job(registry=registry, resumable="yes")(lambda: None)  # type: ignore[call-overload]


def test_a_backend_without_checkpoints_is_refused_with_the_fix(app, registry, monkeypatch):
    monkeypatch.setattr(MemoryBackend, "features", MemoryBackend.features - {"checkpoints"})

    @job(registry=registry, name="walk", resumable=True)
    def walk() -> None: ...

    with pytest.raises(NotSupported, match=r"checkpoints.*\[results\] url"):
        walk.enqueue()
    from jobs_core.errors import LoadError

    with pytest.raises(LoadError, match=r"walk: memory:// does not support checkpoints.*\[results\] url"):
        prepare(app)


def test_acks_of_a_topic_do_not_end_the_reservation_of_a_resumable_job(registry):
    from jobs_core.config import Topic
    from jobs_core.options import policy

    made = job(registry=registry, name="walk", resumable=True)(lambda: None)
    assert policy(made.options, "t", Config(topics={"t": Topic(acks="early")})).acks == "late"


def test_a_cursor_that_cannot_be_read_makes_a_dead_letter(app, registry):
    """To begin anew would silently repeat all steps."""

    @job(registry=registry, name="walk", resumable=True)
    def walk() -> None: ...

    handle = walk.enqueue()
    backend = app.new_backend()
    backend.open("w")
    (delivery,) = backend.reserve(["default"], 1, "r")
    from jobs_core.backends.base import Settlement

    backend.settle([Settlement(delivery.id, delivery.token, Outcome.RELEASE, cursor=b"\xffgarbage")], "s")
    backend.close()
    serve(app)
    found = record(app, handle.id)
    assert (found.state, found.reason) == (State.DEAD, "bad payload")
    assert b"cursor of this job cannot be read" in found.errors[0]


# -- in an application's tests ---------------------------------------------------------------------


def test_drain_stops_a_worker_after_some_steps_and_the_next_one_continues(jobs_queue):
    seen: list[int] = []

    @job(name="walk", resumable=True)
    def walk() -> None:
        for row in current_job().steps(range(10)):
            seen.append(row)

    walk.enqueue()
    walk.enqueue()
    assert jobs_queue.drain(stop_after=0) == 1
    assert seen == []
    assert jobs_queue.drain(stop_after=3) == 1
    assert seen == [0, 1, 2]
    assert jobs_queue.drain(stop_after=9) == 2
    assert seen == [*range(10), 0, 1]
    assert jobs_queue.drain() == 1
    assert seen == [*range(10), *range(10)]


def test_stopping_is_seen_by_every_job_in_a_drain(jobs_queue):
    told = []

    @job(name="plain")
    def plain() -> None:
        told.append(current_job().stopping)

    plain.enqueue()
    jobs_queue.drain(stop_after=0)
    plain.enqueue()
    jobs_queue.drain()
    assert told == [True, False]
