"""A worker injects parameters that are not part of the message."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

import pytest

from jobs_core import ArgumentError, Discard, Injected, Retry, injected, job, provided_by, provides
from jobs_core.errors import JobDefinitionError
from jobs_core.injection import override, providers
from jobs_core.injection.resolving import Plan
from jobs_core.registry import Registry, default_registry

events: list[Any] = []


class Mailer:
    """Something to inject."""

    def __init__(self, kind: str = "real") -> None:
        self.kind = kind


class Session:
    """Something that depends on something else."""

    def __init__(self, mailer: Mailer) -> None:
        self.mailer = mailer


@pytest.fixture(autouse=True)
def _own_providers(monkeypatch):
    monkeypatch.setattr(providers, "_registered", [])
    monkeypatch.setattr(providers, "_by_type", {})
    monkeypatch.setattr(providers, "_by_function", {})
    monkeypatch.setattr(
        default_registry, "_jobs", dict(default_registry._jobs)
    )  # else commands in this process refuse the jobs
    events.clear()


def run(jobs_queue, made, *args, **kwargs):
    made.enqueue(*args, **kwargs)
    jobs_queue.drain()


@pytest.fixture
def define():
    """Define a job in a registry of its own... and the queue's, under a name of the test."""
    names = iter(range(100))
    return lambda function: job(name=f"injection-{next(names)}-{id(function)}")(function)


def provide_mailer():
    @provides
    def mailer() -> Iterator[Mailer]:
        events.append("made")
        try:
            yield Mailer()
        except BaseException as error:
            events.append(type(error).__name__)
            raise
        finally:
            events.append("ended")

    return mailer


def test_a_plain_job_gets_a_new_value_of_its_provider_for_each_run(jobs_queue, define):
    provide_mailer()

    @define
    def send(to: str, *, mailer: Injected[Mailer] = injected) -> None:
        events.append((to, mailer.kind))

    run(jobs_queue, send, "ada")
    run(jobs_queue, send, "bob")
    assert events == ["made", ("ada", "real"), "ended", "made", ("bob", "real"), "ended"]
    assert jobs_queue.dead() == []


def test_no_default_is_needed_for_a_worker(jobs_queue, define):
    provide_mailer()

    @define
    def send(to: str, *, mailer: Injected[Mailer]) -> None:
        events.append((to, mailer.kind))

    run(jobs_queue, send, "ada")
    assert ("ada", "real") in events


def test_an_exception_of_the_job_is_raised_at_the_yield_of_its_provider(jobs_queue, define):
    provide_mailer()

    @define
    def send(*, mailer: Injected[Mailer] = injected) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        run(jobs_queue, send)
    assert events == ["made", "KeyError", "ended"]


def test_an_async_job_gets_values_of_every_kind_of_provider(jobs_queue, define):
    provide_mailer()

    @provides
    async def session(mailer: Injected[Mailer] = injected) -> AsyncIterator[Session]:
        await asyncio.sleep(0)
        yield Session(mailer)
        await asyncio.sleep(0)
        events.append("session ended")

    @provides
    async def number() -> int:
        await asyncio.sleep(0)
        return 42

    @define
    async def send(*, session: Injected[Session] = injected, mailer: Injected[Mailer] = injected, n: Injected[int] = injected):
        assert session.mailer is mailer, "one value for the whole run"
        events.append(n)

    run(jobs_queue, send)
    assert events == ["made", 42, "session ended", "ended"]


def test_a_function_hidden_by_a_plain_decorator_keeps_its_values_until_it_has_been_awaited(jobs_queue, define):
    provide_mailer()

    async def send(*, mailer: Mailer) -> None:
        await asyncio.sleep(0)
        events.append(mailer.kind)

    @define
    def plain(*, mailer: Injected[Mailer] = injected) -> Any:
        return send(mailer=mailer)

    run(jobs_queue, plain)
    assert events == ["made", "real", "ended"]


def test_a_provider_can_be_chosen_by_its_function_and_by_a_mark_like_fastapis(jobs_queue, define):
    def special() -> Mailer:
        return Mailer("special")

    class Depends:
        dependency = staticmethod(special)

    @define
    def send(
        *, one: Annotated[Mailer, provided_by(special)] = injected, other: Annotated[Mailer, Depends()] = injected
    ) -> None:
        events.append((one.kind, other is one))

    send.function.__annotations__.update(
        one=Annotated[Mailer, provided_by(special)], other=Annotated[Mailer, Depends()]
    )  # local names
    run(jobs_queue, send)
    assert events == [("special", True)]


def test_values_of_the_worker_are_made_once_and_ended_with_it(define):
    from jobs_core.injection.resolving import WorkerValues, worker_values

    @provides(scope="worker")
    def mailer() -> Iterator[Mailer]:
        events.append("made")
        yield Mailer()
        events.append("ended")

    @define
    def send(*, mailer: Injected[Mailer] = injected) -> Mailer:
        return mailer

    assert isinstance(worker_values, WorkerValues)
    with worker_values.kept(None):
        assert send.body() is send.body()
        assert events == ["made"]
    assert events == ["made", "ended"]


def test_async_values_of_the_worker_are_kept_where_jobs_share_a_loop_and_ended_in_their_own_task(define):
    from jobs_core.injection.resolving import worker_values

    tasks = []

    @provides(scope="worker")
    async def mailer() -> AsyncIterator[Mailer]:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0.01)
        yield Mailer()
        tasks.append(asyncio.current_task())

    @define
    async def send(*, mailer: Injected[Mailer] = injected) -> Mailer:
        return mailer

    async def several():
        return await asyncio.gather(*(send.body() for _ in range(5)))

    loop = asyncio.new_event_loop()
    with worker_values.kept(loop):
        made = loop.run_until_complete(several())
        assert len(set(made)) == 1
    assert len(tasks) == 2
    assert tasks[0] is tasks[1]
    loop.close()
    made = asyncio.run(several())
    assert len(set(made)) == 5, "elsewhere each run gets its own"


def test_a_value_of_the_worker_that_cannot_be_made_is_tried_again_by_the_next_run(define):
    from jobs_core.injection.resolving import worker_values

    attempts = []

    @provides(scope="worker")
    async def mailer() -> Mailer:
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError
        return Mailer()

    @define
    async def send(*, mailer: Injected[Mailer] = injected) -> Mailer:
        return mailer

    loop = asyncio.new_event_loop()
    with worker_values.kept(loop):
        with pytest.raises(ConnectionError):
            loop.run_until_complete(send.body())
        assert isinstance(loop.run_until_complete(send.body()), Mailer)
    loop.close()


def test_tests_replace_a_value_by_type_or_by_provider_also_below_another_provider(jobs_queue, define):
    provide_mailer()

    @provides
    def session(mailer: Injected[Mailer]) -> Session:
        return Session(mailer)

    @define
    def send(*, session: Injected[Session] = injected, mailer: Injected[Mailer] = injected) -> None:
        events.append((session.mailer.kind, mailer.kind))

    with override(Mailer, Mailer("fake")):
        run(jobs_queue, send)
    with override(session, provider=lambda: Session(Mailer("other"))):
        run(jobs_queue, send)
    assert events == [("fake", "fake"), "made", ("other", "real"), "ended"]


@pytest.mark.parametrize("outer", ["type", "function"])
@pytest.mark.parametrize("inner", ["type", "function"])
def test_of_nested_replacements_the_innermost_decides_whether_by_type_or_by_provider(jobs_queue, define, outer, inner):
    key = {"type": Mailer, "function": provide_mailer()}

    @define
    def send(*, mailer: Injected[Mailer] = injected) -> None:
        events.append(mailer.kind)

    with override(key[outer], Mailer("outer")):
        with override(key[inner], Mailer("inner")):
            run(jobs_queue, send)
        with pytest.raises(LookupError), override(key[inner], Mailer("inner")):
            raise LookupError
        run(jobs_queue, send)
    run(jobs_queue, send)
    assert events == ["inner", "outer", "made", "real", "ended"]


def test_a_direct_call_takes_the_value_from_its_caller_and_says_so_if_there_is_none(define):
    @define
    def send(to: str, *, mailer: Injected[Mailer] = injected) -> str:
        return mailer.kind

    assert send("ada", mailer=Mailer("mine")) == "mine"
    with pytest.raises(RuntimeError, match=r"`.kind` was used on a parameter that nothing was injected into: only a worker"):
        send("ada")


def test_an_injected_parameter_cannot_be_enqueued(jobs_queue, define):
    @define
    def send(to: str, *, mailer: Injected[Mailer] = injected) -> None: ...

    with pytest.raises(ArgumentError, match="'mailer' is injected by the worker: it cannot be enqueued"):
        send.enqueue("ada", mailer=Mailer())


def check(made):
    return Plan.of(made.injections, made.name, is_async=made.is_async)


def test_a_hidden_async_function_is_told_of_its_decorator_not_to_be_async(define):
    def traced(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    @define
    @traced
    async def send(*, mailer: Injected[Mailer] = injected) -> None: ...

    an_async_one()
    with pytest.raises(
        JobDefinitionError, match=r"decorator returns a plain function: make its wrapper an `async def`"
    ) as told:
        Plan.of(send.injections, send.name, is_async=send.is_async, function=send.function)
    assert "make the job" not in str(told.value)


def a_circle():
    @provides
    def session(mailer: Injected[Mailer]) -> Session: ...

    @provides
    def mailer(session: Injected[Session]) -> Mailer: ...


def two_for_one():
    provide_mailer()

    @provides
    def another() -> Mailer: ...


def an_async_one():
    @provides
    async def mailer() -> Mailer: ...


def an_async_one_below():
    @provides
    async def session() -> Session: ...

    @provides
    def mailer(session: Injected[Session]) -> Mailer: ...


def one_without_type():
    @provides
    def mailer(): ...


def one_that_yields_as_another_type():
    @provides
    def mailer() -> Mailer:
        yield Mailer()


def one_that_needs_more():
    @provides
    def mailer(host: str) -> Mailer: ...


def one_that_outlives_what_it_needs():
    @provides
    def session() -> Session: ...

    @provides(scope="worker")
    def mailer(session: Injected[Session]) -> Mailer: ...


@pytest.mark.parametrize(
    ("providing", "error"),
    [
        (lambda: None, "parameter 'mailer': no provider returns .*Mailer.*write one with @provides"),
        (a_circle, "providers need one another in a circle: .*mailer → .*session → .*mailer"),
        (two_for_one, "mailer and .*another both provide .*Mailer.*provided_by"),
        (an_async_one, "'mailer' comes from .*mailer, which needs an event loop: make the job an `async def`"),
        (an_async_one_below, "which needs an event loop"),
        (one_without_type, "annotate what it returns"),
        (one_that_yields_as_another_type, r"yields: annotate it with Iterator\[...\]"),
        (one_that_needs_more, "nothing is known to pass as 'host'"),
        (one_that_outlives_what_it_needs, "keeps its value for the whole worker, but needs .*session"),
    ],
)
def test_a_worker_refuses_impossible_injections_before_it_runs_a_job(define, providing, error):
    @define
    def send(*, mailer: Injected[Mailer] = injected) -> None: ...

    providing()
    with pytest.raises(JobDefinitionError, match=error):
        check(send)


def test_a_parameter_of_the_message_behind_an_injected_one_is_refused():
    def send(mailer: Injected[Mailer], to: str) -> None: ...

    made = job(name="behind", registry=Registry())(send)
    with pytest.raises(JobDefinitionError, match=r"'to' follows the injected parameter 'mailer': write .*after a \*"):
        _ = made.arguments


def test_unknown_scopes_and_providers_that_are_not_functions_are_refused():
    with pytest.raises(JobDefinitionError, match='scope: expected "run" or "worker", got \'job\''):
        provides(scope="job")
    with pytest.raises(JobDefinitionError, match="@provides takes a function"):
        provides(Mailer())


@pytest.mark.parametrize("kind", ["plain", "async", "hidden"])
@pytest.mark.parametrize("error", [KeyError, Retry, Discard])
def test_a_provider_that_swallows_the_exception_does_not_make_the_job_succeed(jobs_queue, define, kind, error):
    @provides
    def mailer() -> Iterator[Mailer]:
        try:
            yield Mailer()
        except BaseException:
            events.append("swallowed")

    def send(*, mailer: Injected[Mailer] = injected) -> None:
        raise error("no")

    async def asend(*, mailer: Injected[Mailer] = injected) -> None:
        await asyncio.sleep(0)
        raise error("no")

    def hidden(*, mailer: Injected[Mailer] = injected) -> Any:
        return asend(mailer=mailer)

    made = define({"plain": send, "async": asend, "hidden": hidden}[kind])
    made.enqueue()
    jobs_queue.drain(raise_errors=False)
    assert events == ["swallowed"]
    if error is Discard:
        assert [record.reason for record in jobs_queue.dead()] == ["discarded: no"]
    else:
        assert len(jobs_queue.enqueued(made)) == 1, "it is retried"


def test_two_providers_of_one_factory_are_two(jobs_queue, define):
    def factory(kind):
        @provides
        def made():
            return kind("made")

        made.__annotations__["return"] = kind

    class Other(Mailer):
        """Another type."""

    factory(Mailer)
    factory(Other)

    def send(*, one, other) -> None:
        events.append((type(one), type(other)))

    send.__annotations__.update(one=Injected[Mailer], other=Injected[Other])
    run(jobs_queue, define(send))
    assert events == [(Mailer, Other)]


def test_decorated_providers_are_entered_and_left(jobs_queue, define):
    def wrapping(function):
        return functools.wraps(function)(lambda: function())

    def generator() -> Iterator[Mailer]:
        yield Mailer()
        events.append("ended")

    async def agenerator() -> AsyncIterator[Mailer]:
        yield Mailer()
        events.append("ended")

    async def send(*, a, b, c, d) -> None:
        events.append({type(each) for each in (a, b, c, d)})

    providers_ = wrapping(generator), contextmanager(generator), wrapping(agenerator), asynccontextmanager(agenerator)
    for name, provider in zip("abcd", providers_, strict=True):
        send.__annotations__[name] = Annotated[Mailer, provided_by(provider)]
    run(jobs_queue, define(send))
    assert events == [{Mailer}, "ended", "ended", "ended", "ended"]


Alias = Injected[Mailer]


def test_an_alias_is_seen_under_postponed_annotations(jobs_queue, define):
    provide_mailer()

    @define
    def send(to: str, *, mailer: Alias) -> None:
        events.append(mailer.kind)

    run(jobs_queue, send, "ada")
    assert "real" in events


def test_a_type_replaces_a_provider_chosen_by_its_function_and_what_the_worker_keeps_needs(jobs_queue, define):
    def special() -> Mailer:
        return Mailer("special")

    @provides(scope="worker")
    def session(mailer: Injected[Mailer]) -> Session:
        return Session(mailer)

    @provides(scope="worker")
    def mailer() -> Mailer:
        return Mailer()

    def send(*, mailer, session: Injected[Session] = injected) -> None:
        events.append((mailer.kind, session.mailer.kind))

    send.__annotations__["mailer"] = Annotated[Mailer, provided_by(special)]
    made = define(send)
    with override(Mailer, Mailer("fake")):
        run(jobs_queue, made)
    assert events == [("fake", "fake")]


@pytest.mark.parametrize("parameters", ["mailer, /", "*mailer", "**mailer"])
def test_a_parameter_that_cannot_be_passed_by_its_name_is_refused(parameters):
    scope: dict[str, Any] = {}
    exec(f"def send({parameters}): ...", scope)
    scope["send"].__annotations__["mailer"] = Injected[Mailer]
    scope["send"].__module__ = __name__
    made = job(name="by-position", registry=Registry())(scope["send"])
    with pytest.raises(JobDefinitionError, match=r"'mailer' cannot be passed by its name: write it after a \*"):
        _ = made.arguments


def test_an_injected_parameter_beside_any_keywords_cannot_be_enqueued(jobs_queue, define):
    @define
    def send(*, mailer: Injected[Mailer] = injected, **more: int) -> None: ...

    with pytest.raises(ArgumentError, match="'mailer' is injected by the worker"):
        send.enqueue(mailer=1)


def test_a_worker_value_whose_creation_hangs_is_created_again_once_nothing_waits_for_it(define):
    from jobs_core.injection.resolving import worker_values

    attempts = []

    @provides(scope="worker")
    async def mailer() -> AsyncIterator[Mailer]:
        attempts.append(1)
        if len(attempts) == 1:
            await asyncio.sleep(3600)
        yield Mailer()

    @define
    async def send(*, mailer: Injected[Mailer] = injected) -> Mailer:
        return mailer

    async def two():
        tasks = [asyncio.ensure_future(send.body()) for _ in range(2)]
        while not attempts:
            await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.sleep(0.01)
        assert not tasks[1].done(), "it waits on"
        tasks[1].cancel()
        await asyncio.wait(tasks)
        return await send.body()

    loop = asyncio.new_event_loop()
    with worker_values.kept(loop):
        assert isinstance(loop.run_until_complete(asyncio.wait_for(two(), 30)), Mailer)
        assert len(attempts) == 2
    loop.close()


def three() -> int:
    return 3


def test_a_nested_job_with_injected_parameters_may_enqueue_itself(jobs_queue):
    ran = []

    @job(name="injection-walk")
    def walk(n: int, *, last: Annotated[int, provided_by(three)]) -> None:
        ran.append((n, last))
        if n < last:
            walk.enqueue(n + 1)

    run(jobs_queue, walk, 2)
    assert ran == [(2, 3), (3, 3)]


@pytest.mark.parametrize("scope", ["run", "worker"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(("times", "says"), [(0, "ended without a yield"), (2, "yielded more than once")])
def test_a_provider_that_does_not_yield_once_is_named(jobs_queue, define, scope, is_async, times, says):
    if is_async:

        @provides(scope=scope)
        async def mailer() -> AsyncIterator[Mailer]:
            for _ in range(times):
                yield Mailer()

        @define
        async def send(*, mailer: Injected[Mailer] = injected) -> None: ...

    else:

        @provides(scope="run")
        def mailer() -> Iterator[Mailer]:
            for _ in range(times):
                yield Mailer()

        @define
        def send(*, mailer: Injected[Mailer] = injected) -> None: ...

    with pytest.raises(JobDefinitionError, match=f"provider .*mailer {says}: it has to yield its value exactly once"):
        run(jobs_queue, send)


def test_errors_of_a_provider_are_its_own(jobs_queue, define):
    @provides
    def mailer() -> Iterator[Mailer]:
        yield Mailer()
        raise RuntimeError("the provider's own")

    @define
    def send(*, mailer: Injected[Mailer] = injected) -> None: ...

    with pytest.raises(RuntimeError, match="^the provider's own$"):
        run(jobs_queue, send)


def test_a_replacement_for_a_type_that_nothing_provides_is_refused():
    provide_mailer()
    with (
        pytest.raises(JobDefinitionError, match=r"override: no provider returns .*Session.*: write one with @provides"),
        override(Session, Session(Mailer())),
    ):
        pass
    with pytest.raises(LookupError), override(Session, 1):  # the test's own error comes first
        raise LookupError
    with override(Mailer, Mailer("fake")), override(lambda: None, 1):
        pass
