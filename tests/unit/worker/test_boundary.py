"""A job's fault stays with that job: whatever its code does at any boundary, it is settled and the others run."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, ClassVar

import msgspec
import pytest

from jobs_core import Discard, JobTimeout, Retry, Snooze, boundary, hookimpl, job, logs
from jobs_core.backends.base import Outcome, Settlement, State
from jobs_core.config import Config, Pool
from jobs_core.events import PutOffTooOften
from jobs_core.message import encode, new_message
from jobs_core.plugins import PluginInfo
from jobs_core.supervisor.housekeeper.sender import Sender
from jobs_core.worker import spinning
from jobs_core.worker.main import Worker

from ...support.project import PATIENCE


class Hostile(BaseException):
    """An object that raises whatever is done with it."""

    def __str__(self) -> str:
        raise SystemExit("no text")

    __repr__ = __bool__ = __len__ = __hash__ = __str__  # type: ignore[assignment]

    @property
    def __class__(self) -> Any:
        raise RuntimeError("no class")

    @property
    def __notes__(self) -> Any:
        raise KeyError("no notes")


class NoText(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class Meta(type):
    def __getattribute__(cls, name: str) -> Any:
        raise MemoryError(name)


class OfAMeta(Exception, metaclass=Meta):
    pass


class NowhereFrom(Exception):
    __module__ = 5  # type: ignore[assignment]


class Talkative(str):
    """A string subclass that lies where it matters."""

    def __len__(self) -> int:
        raise ValueError

    def encode(self, *args: Any) -> bytes:
        raise ValueError


class Texts(Exception):
    def __str__(self) -> str:
        return Talkative("x" * 5000 + "\udcff")


def chained() -> Exception:
    error = ValueError("the last")
    error.__cause__ = Hostile()
    return error


ERRORS: dict[str, Any] = {
    "value": lambda: ValueError("no"),
    "key": lambda: KeyError("no"),
    "lookup": lambda: LookupError("no"),
    "assertion": lambda: AssertionError(),
    "surrogates": lambda: ValueError("cannot read \udcff.txt"),
    "exit": lambda: SystemExit(3),
    "interrupt": lambda: KeyboardInterrupt(),
    "memory": lambda: MemoryError(),
    "recursion": lambda: RecursionError("deep"),
    "generator": lambda: GeneratorExit(),
    "stop": lambda: StopIteration(1),
    "cancelled": lambda: asyncio.CancelledError(),
    "own timeout": lambda: JobTimeout("mine"),
    "hostile": Hostile,
    "no text": NoText,
    "meta": OfAMeta,
    "module": NowhereFrom,
    "texts": Texts,
    "chained": chained,
    "discard number": lambda: Discard(404),  # type: ignore[arg-type]
    "discard error": lambda: Discard(Hostile()),  # type: ignore[arg-type]
    "discard surrogates": lambda: Discard("\udcff"),
    "retry nonsense": lambda: Retry(delay=Hostile()),
    "retry huge": lambda: Retry(delay=10**400),
    "snooze nonsense": lambda: Snooze("10 minutes"),
    "snooze negative": lambda: Snooze(-5),
    "snooze none": lambda: Snooze(None),
    "snooze object": lambda: Snooze(Hostile()),
    "snooze endless": lambda: Snooze(float("inf")),
}


def fail(kind: str) -> None:
    if kind:
        raise ERRORS[kind]()


@dataclass
class Order:
    kind: str

    def __post_init__(self) -> None:
        fail(self.kind)


class Choice(enum.Enum):
    A = "a"

    @classmethod
    def _missing_(cls, value: object) -> Any:
        fail(str(value))


class Model:
    """An object that `conversion` takes for a pydantic model."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def model_dump(self, mode: str) -> Any:
        fail(self.kind)

    @classmethod
    def model_validate(cls, value: Any) -> Model:
        fail(value)
        return cls("")


class Dying:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __del__(self) -> None:
        fail(self.kind)


class Middleware:
    """A middleware that raises where the message says."""

    @hookimpl
    def jobs_run_context(self, run: Any) -> Any:
        @contextlib.contextmanager
        def around() -> Any:
            fail(run.headers.get("enter", ""))
            yield
            fail(run.headers.get("leave", ""))

        fail(run.headers.get("make", ""))
        return around()

    @hookimpl
    def jobs_job_started(self, run: Any) -> None:
        fail(run.headers.get("started", ""))

    @hookimpl
    def jobs_job_finished(self, run: Any) -> None:
        fail(run.headers.get("finished", ""))


POINTS = {
    "convert.dataclass": "bad arguments", "convert.enum": "bad arguments", "convert.model": "bad arguments",
    "run": "", "async.run": "", "async.later": "", "returned.later": "", "result": "",
    "delete": "", "make": "", "enter": "", "leave": "", "started": "", "finished": "",
}  # fmt: skip


@pytest.fixture
def tell(app, registry):
    """Enqueue a job that fails in its own way at one point, past the producer's checks; return its id."""

    @job(registry=registry, name="convert.dataclass", retries=0)
    def convert_dataclass(order: Order) -> None: ...

    @job(registry=registry, name="convert.enum", retries=0)
    def convert_enum(choice: Choice) -> None: ...

    @job(registry=registry, name="convert.model", retries=0)
    def convert_model(model: Model) -> None: ...

    @job(registry=registry, name="run", retries=0)
    def run(kind: str) -> None:
        fail(kind)

    @job(registry=registry, name="async.run", retries=0)
    async def arun(kind: str) -> None:
        fail(kind)

    @job(registry=registry, name="async.later", retries=0)
    async def later(kind: str) -> None:
        await asyncio.sleep(0)
        fail(kind)

    @job(registry=registry, name="returned.later", retries=0)
    def returned(kind: str) -> Any:
        return later(kind)

    @job(registry=registry, name="result", retries=0, store_result=True)
    def result(kind: str) -> Any:
        return [Model(kind)]

    @job(registry=registry, name="delete", retries=0)
    def delete(kind: str) -> Any:
        return Dying(kind)

    @job(registry=registry, name="surrounded", retries=0)
    async def surrounded() -> None: ...

    def tell(point: str, kind: str) -> str:
        if point in ("make", "enter", "leave", "started", "finished"):
            message = new_message("surrounded", "default", [], {}, headers={point: kind}, retries=0)
        else:
            argument: Any = {"kind": kind} if point == "convert.dataclass" else kind
            message = new_message(point, "default", [argument], {}, retries=0)
        operated = app.outgoing(message)
        assert encode(message) == operated.payload
        app.operate(lambda backend: backend.push([operated], message.id))
        return message.id

    return tell


def drain(app, mode):
    worker = Worker(app, "p", Pool(mode=mode, concurrency=4), None, drain=True)
    worker.run()
    return worker.courier


@pytest.mark.parametrize("mode", ["sync", "threads", "async"])
def test_any_error_at_any_boundary_settles_the_job_and_the_others_run(app, registry, tell, mode, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # pytest's handler cannot cope with a hostile exception
    monkeypatch.setattr(logging.getLogger("jobs"), "disabled", True)  # 350 tracebacks that no test reads
    app.plugins._add(Middleware(), PluginInfo("middleware", "jobs-test", "1"))

    @job(registry=registry, name="canary", store_result=True)
    def canary() -> int:
        return 1

    told = {(point, kind): tell(point, kind) for point in POINTS for kind in ERRORS}
    last = canary.enqueue()
    courier = drain(app, mode)
    assert courier.failure is None
    assert last.result(1) == 1
    assert all(count.ready + count.scheduled + count.reserved == 0 for count in counts(app))
    for (point, kind), job_id in told.items():
        record = app.find(job_id)
        if point in ("delete", "started", "finished"):
            assert record is None, (point, kind)  # done
        elif point == "result":
            assert "unstorable" in msgspec.json.decode(record.result), kind
        else:
            assert record.state is State.DEAD, (point, kind, record.state)
            (document,) = map(msgspec.json.decode, record.errors)
            assert isinstance(document["message"], str)
            if POINTS[point] and issubclass(type(ERRORS[kind]()), Exception):
                assert record.reason == POINTS[point], (point, kind)
                assert "argument '" in document["message"]


def counts(app):
    return app.operate(lambda backend: backend.counts(["default"])).values()


@pytest.mark.parametrize("kind", ["value", "exit", "interrupt", "memory", "recursion", "hostile"])
def test_a_failing_log_handler_loses_no_job_and_no_line(app, registry, kind, capfd):
    class Raising(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise ERRORS[kind]()

    @job(registry=registry, name="fails", retries=1, backoff=0.001)
    def fails() -> None:
        raise ValueError("the reason of it")

    handler = Raising()
    logging.getLogger("jobs").addHandler(handler)
    try:
        failed, unfit = fails.enqueue(), new_message("fails", "default", [5], {})
        app.operate(lambda backend: backend.push([app.outgoing(unfit)], "r"))
        courier = drain(app, "sync")
    finally:
        logging.getLogger("jobs").removeHandler(handler)
    assert courier.failure is None
    assert failed.status() is State.DEAD
    assert app.find(unfit.id).reason == "bad arguments"
    assert "the reason of it" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_becomes_a_storable_string_of_bounded_length(kind):
    error = ERRORS[kind]()
    for text in (boundary.told(error), boundary.text_of(error), boundary.traceback_of(error), boundary.name_of(type(error))):
        text.encode()
        assert type(text) is str
        assert len(text) < 21_000


def test_unstorable_strings_are_stored_readably():
    assert boundary.text_of(ValueError("cannot read \udcff.txt")) == "cannot read \\udcff.txt"


@pytest.mark.parametrize("kind", [kind for kind in ERRORS if not kind.startswith(("retry", "snooze", "discard"))])
def test_an_alert_channel_may_raise_any_error_and_is_called_again(kind):
    class Channel:
        asked: ClassVar[list[str]] = []

        def send(self, title: str, text: str, facts: dict[str, Any]) -> None:
            self.asked.append(title)
            fail(kind)

    Channel.asked.clear()
    sender = Sender("odd", Channel(), {})  # type: ignore[arg-type]
    for title in ("first", "second"):
        sender.send("topic", title, "", {})
        assert sender.wait(PATIENCE)
    assert Channel.asked == ["first", "second"]


@pytest.mark.parametrize("size", [999, 1000])
def test_a_result_above_max_result_is_not_stored_and_its_job_is_done(registry, size, monkeypatch, app):
    monkeypatch.setattr(app, "config", msgspec.structs.replace(app.config, max_result=1000))

    @job(registry=registry, name="long", store_result=True)
    def long() -> str:
        return "x" * (size - len(b'{"value":""}') + 1)

    handle = long.enqueue()
    drain(app, "sync")
    stored = msgspec.json.decode(app.find(handle.id).result)
    assert ("value" in stored) == (size < 1000)
    if size >= 1000:
        assert "max_result is 1,000" in stored["unstorable"]


def test_max_result_is_max_message_where_it_is_not_given():
    assert Config().max_result is None


def breaks_factory(patch: pytest.MonkeyPatch) -> None:
    before = logging.getLogRecordFactory()
    patch.setattr(logging, "_logRecordFactory", before)  # which monkeypatch restores
    logging.setLogRecordFactory(lambda *args, **options: 1 / 0)


def breaks_last_resort(patch: pytest.MonkeyPatch) -> None:
    def ends(level: int, text: str) -> None:
        raise SystemExit("of a function that the application has replaced")

    breaks_factory(patch)
    patch.setattr(boundary, "last_resort", ends)


@pytest.mark.parametrize("breaks", [breaks_factory, breaks_last_resort])
def test_a_line_of_ours_depends_on_nothing_that_the_application_may_have_broken(app, registry, monkeypatch, capfd, breaks):
    @job(registry=registry, name="tells", retries=0)
    def tells() -> None:
        raise ValueError("the reason of it")

    handle = tells.enqueue()
    with monkeypatch.context() as patch:
        breaks(patch)
        record = logs.record_of("100 % itself", logging.ERROR, "jobs", worker="w")
        worker = Worker(app, "p", Pool(), None, drain=True)
        worker.run()
    assert (record.getMessage(), record.levelname, record.worker) == ("100 % itself", "ERROR", "w")
    assert worker.courier.failure is None
    assert handle.status() is State.DEAD
    assert "the reason of it" in capfd.readouterr().err


def test_a_job_that_snoozes_without_a_pause_is_slowed_down_and_reported_once(app, registry, monkeypatch, caplog):
    monkeypatch.setattr(spinning, "WITHIN", 60.0)  # a hundred runs may take a loaded machine longer than a second
    monkeypatch.setattr(spinning, "PAUSE", 0.01)
    runs = []

    @job(registry=registry, name="spins")
    def spins() -> None:
        runs.append(time.monotonic())
        if len(runs) <= spinning.TIMES + 5:
            raise Snooze(0)

    spins.enqueue()
    drain(app, "sync")
    assert len(runs) == spinning.TIMES + 6
    assert all(later - earlier >= 0.01 for earlier, later in pairwise(runs[-5:]))
    assert sum(isinstance(getattr(record, "event", None), PutOffTooOften) for record in caplog.records) == 1


def test_a_job_that_is_put_off_at_a_human_pace_is_left_alone(monkeypatch):
    clock = iter(n * 0.02 for n in range(1000))  # fifty times a second
    monkeypatch.setattr(spinning.time, "monotonic", lambda: next(clock))
    spins = spinning.Spinning()
    for times in range(1000):
        run = SimpleNamespace(delivery=SimpleNamespace(id="x", topic="t", deferrals=times), job=SimpleNamespace(name="j"))
        assert spins.slowed(run, Settlement("x", 1, Outcome.DEFER)).after == 0


def _raises(signum, frame):
    raise KeyboardInterrupt


def _is_deaf(signum, frame):
    """Set the handler of a supervised worker."""


HANDLERS = {
    "Python's own": signal.default_int_handler,
    "one that raises": _raises,
    "a partial that raises": functools.partial(_raises),
    "one that is deaf": _is_deaf,
    "none": signal.SIG_IGN,
}


@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS)
def test_an_interrupt_that_code_raises_by_hand_is_none_whatever_handles_real_ones(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt) as raised:
            raise KeyboardInterrupt
        assert not boundary.passes(raised.value)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("handler", list(HANDLERS.values())[:3], ids=list(HANDLERS)[:3])
def test_a_real_interrupt_is_one_whatever_handles_it(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt) as raised:
            os.kill(os.getpid(), signal.SIGINT)
            sum(range(1000))
        assert boundary.passes(raised.value)
    finally:
        signal.signal(signal.SIGINT, before)
