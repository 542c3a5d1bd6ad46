"""The assertions of `jobs_queue`: part of a call is enough, and a failure shows what is enqueued instead."""

import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from unittest.mock import ANY

import pytest

from jobs_core import ArgumentError, Discard, Injected, JobFailed, Retry, Snooze, current_job, job, provides
from jobs_core.backends.base import Outgoing
from jobs_core.config import Config
from jobs_core.registry import default_registry
from jobs_core.testing import JobsQueue


@dataclass
class Customer:
    name: str
    age: int = 30


@job(name="expect.send")
def send(to: str, subject: str = "hello", *, urgent: bool = False, on: date | None = None): ...


@job(name="expect.greet")
def greet(customer: Customer, tags: list[str] = []): ...  # noqa: B006


@job(name="expect.sum_up")
def add(*numbers: int, **notes: str): ...


@job(name="expect.repeat", aliases=["expect.old"])
def repeat(count: int): ...


@job(name="expect.file")
def file(path: Path, meta: dict[str, int]): ...


FITTING = [
    (send, (), {}),
    (send, ("ada@x",), {}),
    (send, (), {"to": "ada@x"}),
    (send, (), {"urgent": False}),  # a default
    (send, ("ada@x", "hi"), {"on": date(2024, 2, 29)}),
    (send, (), {"on": "2024-02-29"}),  # as JSON
    (send, (ANY, "hi"), {"on": ANY}),
    (send, (lambda to: to.endswith("@x"),), {}),
    (send, ("ada@x",), {"on": lambda on: on.day == 29}),  # the arguments that the job receives
    (send, (str,), {"on": date}),
    (greet, (Customer("Ada"),), {}),
    (greet, ({"name": "Ada", "age": 30},), {}),
    (greet, (lambda customer: customer.age == 30,), {"tags": ["a", ANY]}),
    (greet, (), {"tags": ("a", "b")}),
    (add, (1, 2), {}),
    (add, (1,), {"why": "test"}),
    (add, (), {}),
    (repeat, (), {"count": 3}),  # its own argument
    (file, (Path("/tmp/x"),), {}),
    (file, ("/tmp/x",), {"meta": {"a": ANY}}),
    (file, (), {"meta": {"a": pytest.approx(1.0)}}),
    (send.using(topic="vip"), ("bob@x",), {}),
    (send.using(delay="1h", priority=3), (), {}),
    (send.using(headers={"a": 1}), (), {}),
    (send.using(id="chosen"), (), {}),
    (send.using(expires="2h", retries=1, timeout=9, key="k"), (), {}),
]

UNFITTING = [
    (send, ("ada",), {}),
    (send, (), {"urgent": True}),
    (send, ("ada@x",), {"on": date(2024, 2, 28)}),
    (send, (int,), {}),
    (send, (lambda to: to.startswith("@"),), {}),
    (greet, (Customer("Ada", 31),), {}),
    (greet, (), {"tags": ["a"]}),
    (add, (2,), {}),
    (add, (1, 2, 3, 4), {}),
    (add, (), {"why": "else"}),
    (add, (), {"whither": ANY}),
    (repeat, (), {"count": 1}),
    (send.using(topic="vip"), ("ada@x",), {}),
    (send.using(delay="2h"), (), {}),
    (send.using(headers={"a": 2}), (), {}),
    (send.using(headers={"c": 1}), (), {}),
    (send.using(id="other"), (), {}),
]


@pytest.fixture
def filled(jobs_queue):
    send.enqueue("ada@x", "hi", on=date(2024, 2, 29))
    send.using(
        topic="vip", delay="1h", priority=3, headers={"a": 1, "b": 2}, id="chosen", expires="2h", retries=1, timeout=9, key="k"
    ).enqueue("bob@x")
    greet.enqueue(Customer("Ada"), ["a", "b"])
    add.enqueue(1, 2, 3, why="test")
    repeat.enqueue(3)
    file.enqueue(Path("/tmp/x"), {"a": 1})
    return jobs_queue


@pytest.mark.parametrize(("function", "args", "kwargs"), FITTING)
def test_a_call_is_found_by_any_part_of_it(filled, function, args, kwargs):
    found = filled.assert_enqueued(function, *args, **kwargs)
    assert found.job == function.name
    assert found in filled.enqueued(function, *args, **kwargs)
    with pytest.raises(AssertionError, match=f"^{function.name} is enqueued .*expected never; enqueued are:\n"):
        filled.refute_enqueued(function, *args, **kwargs)


@pytest.mark.parametrize(("function", "args", "kwargs"), UNFITTING)
def test_a_call_that_differs_is_not_found_and_the_difference_is_shown(filled, function, args, kwargs):
    filled.refute_enqueued(function, *args, **kwargs)
    assert filled.enqueued(function, *args, **kwargs) == []
    with pytest.raises(AssertionError, match=f"^{function.name} is not enqueued with .*; enqueued are:\n  ") as caught:
        filled.assert_enqueued(function, *args, **kwargs)
    assert re.search(r"\n      - .*\n      \+ ", str(caught.value))


def test_calls_are_counted(filled):
    send.enqueue("ada@x")
    assert filled.assert_enqueued(send, count=3)
    assert filled.assert_enqueued(send, "ada@x", count=2).args == ["ada@x", "hi"]
    with pytest.raises(AssertionError, match="expect.send is enqueued twice with to='ada@x', expected once; enqueued are:\n"):
        filled.assert_enqueued(send, "ada@x", count=1)
    with pytest.raises(AssertionError, match="expect.send is not enqueued with to='eve@x', expected twice; "):
        filled.assert_enqueued(send, "eve@x", count=2)
    for count in (0, -1):
        with pytest.raises(ValueError, match="use refute_enqueued"):
            filled.assert_enqueued(send, count=count)


@pytest.mark.parametrize("method", ["assert_enqueued", "refute_enqueued", "enqueued"])
def test_a_mistake_in_an_expectation_raises_an_error(filled, method):
    for args, kwargs in [((), {"too": "ada@x"}), (("a", "b", "c"), {}), (("a",), {"to": "a"})]:
        with pytest.raises(ArgumentError, match=r"expect.send\(to: .* has no such call: "):
            getattr(filled, method)(send, *args, **kwargs)
    with pytest.raises(TypeError, match="expected a job function, one with @job, got str"):
        getattr(filled, method)("expect.send")


def test_a_predicate_that_cannot_take_every_call_fails_no_assertion_and_hides_nothing(jobs_queue):
    send.enqueue("ada@x")
    send.enqueue("bob@x", on=date(2024, 2, 29))
    jobs_queue.assert_enqueued(send, on=lambda on: on.day == 29)
    with pytest.raises(AssertionError, match=r"\+ on=None, for which it raised AttributeError: "):
        jobs_queue.assert_enqueued(send, on=lambda on: on.day == 1)
    for method in (jobs_queue.refute_enqueued, jobs_queue.enqueued):
        with pytest.raises(AttributeError):
            method(send, on=lambda on: on.day == 1)


def test_a_failure_reads_like_a_diff(jobs_queue):
    send.enqueue("ada@x")
    send.using(topic="vip", delay="90m").enqueue("bob@x", urgent=True)
    repeat.enqueue(1)
    repeat.enqueue(2)
    with pytest.raises(AssertionError) as caught:
        jobs_queue.assert_enqueued(send, to="bob@x", urgent=bool, subject="bye")
    assert str(caught.value) == (
        "expect.send is not enqueued with to='bob@x', subject='bye', urgent=bool; enqueued are:\n"
        "  send('bob@x', urgent=True) in vip, due in 1h30m\n"
        "      - subject='bye'\n"
        "      + subject='hello'\n"
        "  send('ada@x') in default\n"
        "      - to='bob@x'\n"
        "      + to='ada@x'\n"
        "      - subject='bye'\n"
        "      + subject='hello'\n"
        "  other jobs: expect.repeat (2)"
    )
    jobs_queue.clear()
    with pytest.raises(AssertionError, match=r"expect.send is not enqueued; enqueued are: none$"):
        jobs_queue.assert_enqueued(send)


def test_long_values_are_compared_line_by_line(jobs_queue):
    greet.enqueue(Customer("Ada"), [f"a long tag with number {n}" for n in range(9)])
    with pytest.raises(AssertionError) as caught:
        jobs_queue.assert_enqueued(greet, tags=[f"a long tag with number {n}" for n in range(1, 9)])
    assert re.findall(r"\n      ([-+?].*)", str(caught.value)) == [
        "- ['a long tag with number 1',",
        "+ ['a long tag with number 0',",
        "+  'a long tag with number 1',",
    ]


def test_a_failure_lists_the_closest_calls_first_and_not_thousands(jobs_queue):
    for n in range(30):
        send.enqueue(f"{n}@x")
    send.enqueue("ada@x", "bye")
    with pytest.raises(AssertionError, match=r"enqueued are:\n  send\('ada@x', 'bye'\)(?s:.*)… and 21 more$"):
        jobs_queue.assert_enqueued(send, "ada@x", "farewell")


def test_messages_of_other_producers_are_compared_too(jobs_queue):
    for number, text in enumerate(['"expect.old","args":[7]', '"expect.repeat","args":[1,2,3]', '"expect.nowhere"']):
        payload = f'{{"v":1,"topic":"default","job":{text}}}'.encode()
        sent = Outgoing(f"id{number}", "default", payload, 0, 0.0, None, True)
        jobs_queue.app.operate(lambda backend, sent=sent: backend.push([sent], sent.id))
    assert len(jobs_queue.enqueued(repeat, 7)) == 1
    with pytest.raises(AssertionError) as caught:
        jobs_queue.assert_enqueued(repeat, 8)
    assert re.findall(r"\n      (\+ .*)", str(caught.value)) == ["+ count=7", "+ count=(missing)"]
    assert str(caught.value).endswith("\n  other jobs: expect.nowhere")


def test_nothing_enqueued_is_an_assertion_too(jobs_queue):
    jobs_queue.refute_enqueued()
    repeat.enqueue(1)
    with pytest.raises(AssertionError, match=r"^1 job enqueued, expected none:\n  repeat\(1\) in default$"):
        jobs_queue.refute_enqueued()


# -- running ---------------------------------------------------------------------------------------------


@job(name="expect.ask")
def ask(how: str) -> str:
    current_job().enqueue(repeat, 1)
    if how == "fail":
        raise LookupError("here")
    if how in ("retry", "snooze", "discard"):
        raise {"retry": Retry(), "snooze": Snooze(1), "discard": Discard("no")}[how]
    return how


@job(name="expect.aask")
async def aask(customer: Customer) -> Customer:
    return customer


def test_one_call_can_be_performed_without_the_others(jobs_queue):
    repeat.enqueue(5)
    assert jobs_queue.perform(ask, "well") == "well"
    assert jobs_queue.perform(aask, customer=Customer("Ada")) == Customer("Ada")
    assert [message.args for message in jobs_queue.enqueued(repeat)] == [[5], [1]]  # the follow-up of a success


@pytest.mark.parametrize(("how", "error"), [("fail", LookupError), ("retry", Retry), ("snooze", Snooze), ("discard", Discard)])
def test_errors_of_a_performed_call_are_raised(jobs_queue, how, error):
    with pytest.raises(error):
        jobs_queue.perform(ask, how)
    jobs_queue.refute_enqueued()  # no follow-ups, and no retry
    assert jobs_queue.dead() == []


def test_a_performed_call_is_checked_as_an_enqueue_checks_it(jobs_queue):
    with pytest.raises(ArgumentError):
        jobs_queue.perform(ask, 5)  # type: ignore[arg-type]


@dataclass
class Strict:
    name: str

    def __post_init__(self):
        if self.name != "ok":
            raise ValueError("not ok")


@job(name="expect.strict")
def strict(value: Strict): ...


@pytest.mark.parametrize(
    ("payload", "error", "says"),
    [
        (b"nonsense", JobFailed, r"is dead \(bad message\): not JSON"),
        (b'{"v":1,"job":"expect.repeat","topic":"default","args":["x"]}', JobFailed, r"\(bad arguments\): argument 'count'"),
        (b'{"v":1,"job":"expect.strict","topic":"default","args":[{"name":""}]}', ArgumentError, "not ok"),
    ],
)
def test_a_job_that_cannot_be_run_fails_the_drain(jobs_queue, payload, error, says):
    jobs_queue.app.operate(lambda backend: backend.push([Outgoing("id", "default", payload, 0, 0.0, None, True)], "r"))
    with pytest.raises(error, match=says):
        jobs_queue.drain()
    assert jobs_queue.drain() == 0
    assert len(jobs_queue.dead()) == 1


def test_inline_applies_to_a_block(jobs_queue):
    repeat.enqueue(1)
    with jobs_queue.inline():
        with pytest.raises(LookupError):
            ask.enqueue("fail")
        jobs_queue.refute_enqueued(repeat)
    repeat.enqueue(2)
    jobs_queue.assert_enqueued(repeat, 2)


def test_the_queue_works_without_pytest():
    with JobsQueue(Config()) as queue:
        repeat.enqueue(2)
        assert queue.drain(limit=1) == 1
    with JobsQueue() as other:
        other.refute_enqueued()


class Mailer:
    pass


@provides
def mailer() -> Mailer:
    return Mailer()


@job(name="expect.injected")
def injected(to: str, *, mailer: Injected[Mailer]) -> str:
    return f"{to} by {type(mailer).__name__}"


def test_injected_parameters_are_not_part_of_a_call(jobs_queue):
    injected.enqueue("ada@x")
    jobs_queue.assert_enqueued(injected, "ada@x", count=1)
    with pytest.raises(AssertionError, match="- to='bob@x'"):
        jobs_queue.assert_enqueued(injected, to="bob@x")
    with pytest.raises(ArgumentError, match="has no such call"):
        jobs_queue.assert_enqueued(injected, mailer=ANY)
    assert jobs_queue.perform(injected, "ada@x") == "ada@x by Mailer"


FAILING = """
from jobs_core import Injected, job, provides

def deeper(name):
    raise LookupError(f"no {name}")

@job(name="tb.plain")
def plain(name):
    deeper(name)

@provides
def number() -> int:
    return 5

@job(name="tb.given")
def given(name, *, number: Injected[int]):
    deeper(name)

@job(name="tb.nested")
async def nested(name):
    deeper(name)

def test_drain(jobs_queue):
    plain.enqueue("drained")
    jobs_queue.drain()

def test_async(jobs_queue):
    nested.enqueue("awaited")
    jobs_queue.drain()

def test_injected(jobs_queue):
    given.enqueue("injected")
    jobs_queue.drain()

def test_inline(jobs_inline):
    plain.enqueue("inline")

def test_perform(jobs_queue):
    jobs_queue.perform(plain, "performed")

def test_assertion(jobs_queue):
    plain.enqueue("x")
    jobs_queue.assert_enqueued(plain, "asserted")
"""


def test_pytest_shows_the_users_frames(pytester):
    pytester.makepyfile(FAILING)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=6)
    text = result.stdout.str()
    for name in ("drained", "awaited", "injected", "inline", "performed"):
        assert f"LookupError: no {name}" in text
    assert text.count("def deeper(name):") == 5
    assert text.count("deeper(name)\n") == 5
    files = re.findall(r"^(?:\S*/)?(\w+\.py):\d+: ", text, re.MULTILINE)
    ours = [file for file in files if file != "test_pytest_shows_the_users_frames.py"]
    assert len(ours) == 1  # `enqueue` itself, which runs the job inline


# -- keys and limits ---------------------------------------------------------------------------------


@pytest.fixture
def undefined_afterwards():
    """Other tests of this process look at the default registry, too."""
    before = dict(default_registry._jobs)
    yield
    default_registry._jobs.clear()
    default_registry._jobs.update(before)


@pytest.mark.usefixtures("undefined_afterwards")
def test_keys_and_limits_are_compared_as_the_call_gets_them(jobs_queue):
    @job(name="shop.charge", limits=("stripe", "stripe:{account}"), key="{account}", registry=jobs_queue.app.registry)
    def charge(account: str) -> None: ...

    charge.enqueue("acme")
    jobs_queue.assert_enqueued(charge.using(key="acme", limits=["stripe:acme", "stripe"]))
    jobs_queue.assert_enqueued(charge.using(key="{account}", limits=lambda account: ["stripe", f"stripe:{account}"]))
    jobs_queue.refute_enqueued(charge.using(key="other"))
    jobs_queue.refute_enqueued(charge.using(limits="stripe"))
    with pytest.raises(
        AssertionError, match=r"- using\(limits\)=\['stripe'\]\n.*\+ using\(limits\)=\['stripe', 'stripe:acme'\]"
    ):
        jobs_queue.assert_enqueued(charge.using(limits="stripe"))


@pytest.mark.usefixtures("undefined_afterwards")
def test_limits_hold_no_test_up(jobs_queue):
    ran = []

    @job(name="shop.bill", limits="stripe:{account}", registry=jobs_queue.app.registry)
    def bill(account: str) -> None:
        ran.append(account)
        if len(ran) == 1:
            raise Retry(delay=60, close="stripe:acme")

    for _ in range(3):
        bill.enqueue("acme")
    assert jobs_queue.drain() == 3
    assert len(ran) == 3
