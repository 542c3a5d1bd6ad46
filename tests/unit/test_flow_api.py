"""Flows, chains and groups as applications write them: what is sent, and which mistakes are found before anything is."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import operator
import re
from typing import Any

import pytest

from jobs_core import (
    ArgumentError,
    BackendUnavailable,
    Config,
    DuplicateJob,
    Flow,
    FlowError,
    FlowLost,
    JobDefinitionError,
    JobFailed,
    JobHandle,
    MessageError,
    NotSupported,
    ResultTimeout,
    Unique,
    chain,
    current_job,
    ended,
    group,
    job,
)
from jobs_core.app.flow_sending import FlowSending
from jobs_core.backends.base import Outgoing
from jobs_core.backends.flows import After, FlowStatus, Part
from jobs_core.backends.memory import MemoryBackend
from jobs_core.flows import WorkHandle
from jobs_core.flows.flow import PART_BYTES, PART_SIZE, PART_TARGETS
from jobs_core.registry import Registry
from jobs_core.testing import JobsQueue

from ..support.inprocess import as_it_was

REGISTRY = Registry()


@job(registry=REGISTRY, name="charge", store_result=True)
def charge(order: int) -> str:
    return f"receipt {order}"


@job(registry=REGISTRY, name="fetch", store_result=True)
async def fetch(url: str) -> bytes:
    return url.encode()


@job(registry=REGISTRY, name="resize", store_result=True)
def resize(data: bytes, width: int = 100) -> bytes:
    return data[:width]


@job(registry=REGISTRY, name="merge", store_result=True)
def merge(parts: list[bytes], name: str = "all") -> int:
    return len(parts)


@job(registry=REGISTRY, name="tell")
def tell(*what: Any, **more: Any) -> None: ...


class Recorder:
    """The parts that were pushed, in place of a store."""

    def __init__(self) -> None:
        self.parts: list[tuple[Part, list[Outgoing]]] = []
        self.conflicts: dict[int, str] = {}  # by number of the message, the job that holds its key
        self.errors: list[Exception] = []  # raised by the next pushes
        self.answers_lost: dict[int, BaseException] = {}  # by number of the part, raised once it is stored

    @property
    def members(self) -> list[Outgoing]:
        return [message for _, messages in self.parts for message in messages]

    def waits(self) -> list[tuple[str, list[str]]]:
        """Return for each member its job, and what it waits for: the jobs of members, stages as they are."""
        names = {message.id: message.member.label for message in self.members if message.member}
        return [
            (
                message.member.label,
                [("ended " if each.ended else "") + names.get(each.target, each.target) for each in message.member.after],
            )
            for message in self.members
            if message.member
        ]


@pytest.fixture
def recorder(monkeypatch):
    """A queue whose backend records the parts of flows."""
    recorder = Recorder()

    def push_part(self, part, messages, request):
        if recorder.errors:
            raise recorder.errors.pop(0)
        before = len(recorder.members)
        conflicts = {message.id: recorder.conflicts[n] for n, message in enumerate(messages, before) if n in recorder.conflicts}
        if not conflicts:
            recorder.parts.append((part, list(messages)))
            if part.number in recorder.answers_lost:
                raise recorder.answers_lost[part.number]
        return conflicts

    monkeypatch.setattr(MemoryBackend, "features", MemoryBackend.features | {"flows"})

    def flow(self, flow_id):
        return FlowStatus(flow_id, "running" if recorder.parts[-1][0].last else "open") if recorder.parts else None

    monkeypatch.setattr(MemoryBackend, "push_part", push_part)
    monkeypatch.setattr(MemoryBackend, "flow", flow)
    monkeypatch.setattr(MemoryBackend, "cancel_flow", lambda self, flow, *, finale=False: recorder.parts.clear() or True)
    with JobsQueue():
        yield recorder


def envelope(message: Outgoing) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(message.payload)
    return found


# -- what is sent ------------------------------------------------------------------------------------


def test_a_flow_is_sent_whole_at_the_end_of_its_block(recorder):
    with Flow("order", headers={"order": "7", "by": "flow"}, ttl="2h", open_for=60) as flow:
        paid = flow.add(charge.call(7))
        label = flow.add(fetch.using(headers={"by": "member"}).call("u"), after=paid)
        flow.add(tell.call(7, paid.result, both=[label.result, {"a/b~": paid.result}]))
        flow.add(tell.call(), after=flow.all, when="failed")
        assert recorder.parts == []
    [(part, members)] = recorder.parts
    assert part == Part(flow.id, 0, True, "order", 7200.0, 60.0)
    assert flow.handle.id == flow.id == members[0].member.flow
    assert [message.id for message in members[:2]] == [paid.id, label.id]
    assert recorder.waits() == [("charge", []), ("fetch", ["charge"]), ("tell", ["charge", "fetch"]), ("tell", ["*"])]
    assert members[3].member.when == "failed"
    assert members[2].member.inputs == (paid.id, label.id)
    assert [envelope(message)["headers"] for message in members] == [
        {"order": "7", "by": "flow"},
        {"order": "7", "by": "member"},
        {"order": "7", "by": "flow"},
        {"order": "7", "by": "flow"},
    ]
    taking = envelope(members[2])
    assert (taking["v"], taking["args"], taking["kwargs"]) == (2, [7, None], {"both": [None, {"a/b~": None}]})
    assert taking["results"] == {"/args/1": paid.id, "/kwargs/both/0": label.id, "/kwargs/both/1/a~1b~0": paid.id}
    assert "results" not in envelope(members[0])
    assert envelope(members[0])["v"] == 1


def test_an_async_block_sends_its_flow(recorder):
    async def order() -> None:
        async with Flow("order") as flow:
            flow.add(charge.call(7))
        await chain(charge.call(1), tell.step()).aenqueue()

    asyncio.run(order())
    assert [len(messages) for _, messages in recorder.parts] == [1, 2]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_exception_in_the_block_sends_nothing(recorder, asynchronous):
    def fail(flow: Flow) -> None:
        flow.add(charge.call(7))
        raise ZeroDivisionError

    async def in_loop() -> None:
        async with Flow() as flow:
            fail(flow)

    with pytest.raises(ZeroDivisionError):
        if asynchronous:
            asyncio.run(in_loop())
        else:
            with Flow() as flow:
                fail(flow)
    assert recorder.parts == []


def test_a_large_flow_is_sent_in_numbered_parts_of_a_bounded_size(recorder):
    with Flow() as flow:
        flow.add(group(tell.call(n) for n in range(2 * PART_SIZE + 1)))
    assert [(part.number, part.last, len(messages)) for part, messages in recorder.parts] == [
        (0, False, PART_SIZE),
        (1, False, PART_SIZE),
        (2, True, 1),
    ]
    recorder.parts.clear()
    with Flow() as flow:
        for _ in range(12):
            flow.add(tell.call("x" * 900_000))
    assert all(sum(len(message.payload) for message in messages) <= PART_BYTES for _, messages in recorder.parts)
    assert [part.last for part, _ in recorder.parts] == [False, False, True]
    recorder.parts.clear()
    with Flow() as flow:
        first = [flow.add(tell.call(n)) for n in range(900)]
        for n in range(20):
            flow.add(tell.call(n), after=first)
    assert [len(messages) for _, messages in recorder.parts] == [911, 9]
    assert all(sum(len(each.member.after) for each in messages) <= PART_TARGETS for _, messages in recorder.parts)


def test_a_push_whose_answer_was_lost_is_repeated(recorder):
    recorder.errors = [BackendUnavailable("no answer"), BackendUnavailable("no answer")]
    with Flow() as flow:
        flow.add(charge.call(7))
    assert len(recorder.members) == 1


def test_a_push_ends_within_enqueue_timeout_and_another_thread_gets_its_turn(recorder):
    recorder.errors = [BackendUnavailable("no answer")] * 1000
    with JobsQueue(Config(enqueue_timeout=0.1)) as queue:  # type: ignore[arg-type]  # a Duration is a float
        with (
            pytest.raises(BackendUnavailable, match="gave up after enqueue_timeout; the job may or may not have been"),
            Flow() as flow,
        ):
            flow.add(tell.call())
        recorder.errors.clear()
        with Flow() as flow:
            flow.add(tell.call())
        tell.enqueue()
        assert len(queue.enqueued()) == 1
    assert len(recorder.parts) == 1


def test_the_result_of_a_group_is_a_list_in_its_order_and_a_group_is_a_stage(recorder):
    handle = group(fetch.call(str(n)) for n in range(3)).then(merge.step("b")).enqueue("thumbs")
    assert recorder.parts[0][0].name == "thumbs"
    assert recorder.waits() == [("fetch", []), ("fetch", []), ("fetch", []), ("merge", ["group-1"])]
    *fetched, merged = recorder.members
    assert {message.member.stage for message in fetched} == {"group-1"}
    assert merged.member.stage == ""
    assert envelope(merged)["args"] == [[None, None, None], "b"]
    assert envelope(merged)["results"] == {f"/args/0/{n}": message.id for n, message in enumerate(fetched)}
    assert [end.id for end in handle.ends] == [merged.id]


NESTED = {
    "chain": (lambda: chain(fetch.call("a"), resize.step(), tell.step()), ["fetch <", "resize < fetch", "tell < resize"]),
    "calls pass nothing": (lambda: chain(tell.call(), tell.call(1)), ["tell <", "tell < tell"]),
    "chain in a chain": (
        lambda: chain(chain(fetch.call("a"), resize.step()), chain(tell.call(), tell.call())),
        ["fetch <", "resize < fetch", "tell < resize", "tell < tell"],
    ),
    "group of chains": (
        lambda: group([chain(fetch.call("a"), resize.step()), fetch.call("b")]).then(merge.step()),
        ["fetch <", "resize < fetch", "fetch <", "merge < group-1"],
    ),
    "steps in a group": (
        lambda: chain(fetch.call("a"), group([resize.step(1), resize.step(2)]), merge.step()),
        ["fetch <", "resize < fetch", "resize < fetch", "merge < group-1"],
    ),
    "group of groups": (
        lambda: group([group([tell.call(), tell.call()]).then(tell.call()), tell.call()]).then(tell.call()),
        ["tell <", "tell <", "tell < group-2", "tell <", "tell < group-1"],
    ),
    "group at the end": (
        lambda: chain(tell.call(), group([tell.call(), tell.call()])),
        ["tell <", "tell < tell", "tell < tell"],
    ),
    "group after group": (
        lambda: chain(group([fetch.call("a")]), group([merge.step(), merge.step()]), tell.step()),
        ["fetch <", "merge < group-1", "merge < group-1", "tell < group-2"],
    ),
    "empty group": (lambda: group([]).then(merge.step()), ["merge <"]),
    "empty group between": (lambda: chain(tell.call(), group([]), tell.step()), ["tell <", "tell < tell"]),
}


@pytest.mark.parametrize("name", NESTED)
def test_chains_and_groups_nest(recorder, name):
    make, expected = NESTED[name]
    make().enqueue()
    assert [f"{label} < {', '.join(after)}".rstrip() for label, after in recorder.waits()] == expected
    recorder.parts.clear()
    with Flow() as flow:  # the same as a part of a larger flow
        first = flow.add(tell.call("first"))
        tail = flow.add(make(), after=first)
        flow.add(tell.call("last"), after=ended(tail))
    inner = recorder.waits()[1:-1]
    assert len(inner) == len(expected)
    assert all(after for _, after in inner)
    assert all(each.startswith("ended ") for each in recorder.waits()[-1][1])


def test_a_chain_that_begins_with_a_step_takes_the_result_of_what_precedes_its_group():
    def plus(number: int, more: int = 0) -> int:
        return number + more

    def listed(numbers: list[int]) -> list[int]:
        return numbers

    with as_it_was(), JobsQueue() as queue:
        add, all_of = job(name="plus", store_result=True)(plus), job(name="listed", store_result=True)(listed)
        inner = chain(add.step(10), group([add.step(1), add.step(2)]), all_of.step())
        handles = [
            chain(add.call(0, 5), group([add.step(1), chain(add.step(2), add.step(3))]), all_of.step()).enqueue(),
            chain(add.call(0, 5), inner).enqueue(),
        ]
        queue.drain()
        assert [handle.result(5) for handle in handles] == [[6, 10], [16, 17]]


def test_a_large_group_waits_by_its_stage_not_by_its_members(recorder):
    group(fetch.call(str(n)) for n in range(1500)).then(merge.step()).enqueue()
    merged = recorder.members[-1]
    assert len(merged.member.inputs) == 1500
    assert merged.member.after == (After("group-1", "stage"),)


def test_a_member_takes_the_results_of_a_large_group_by_its_stage(recorder):
    with Flow() as flow:
        fetched = flow.add(group(chain(fetch.call(str(n)), resize.step()) for n in range(1001)))
        small = flow.add(group(fetch.call(str(n)) for n in range(2)))
        alone = flow.add(charge.call(7))
        flow.add(merge.call(fetched.result), after=alone)
        flow.add(merge.call(small.result))
        flow.add(tell.call(), results=[fetched, alone], after=small)
    merged, few, told = recorder.members[-3:]
    assert len(merged.member.inputs) == 1001
    assert merged.member.after == (After(alone.id), After("group-1", "stage"))
    assert few.member.after == tuple(After(end.id) for end in small.ends)
    assert told.member.after == (After("group-2", "stage"), After("group-1", "stage"), After(alone.id))


def test_results_of_too_many_members_without_a_stage_are_refused_with_the_remedy(recorder):
    with Flow() as flow:
        fetched = [flow.add(fetch.call(str(n)), stage="fetched" if n % 2 else None) for n in range(2002)]
        with pytest.raises(FlowError, match=r'wait for 1,002 members, and 1,000 is the most: add them with stage="name"'):
            flow.add(merge.call([each.result for each in fetched]))
        with pytest.raises(FlowError, match="wait for 1,001 members"):
            flow.add(merge.call([each.result for each in fetched[1::2]]), stage="fetched")
        flow.add(merge.call([each.result for each in fetched[1::2]]))
    assert recorder.members[-1].member.after == (After("fetched", "stage"),)


def test_the_results_of_a_large_group_arrive():
    sums: list[int] = []

    def one() -> int:
        return 1

    def total(numbers: list[int]) -> None:
        sums.append(sum(numbers))

    with as_it_was(), JobsQueue() as queue:
        counted, summed = job(name="one", store_result=True)(one), job(name="total")(total)
        with Flow() as flow:
            numbers = flow.add(group(counted.call() for _ in range(1500)))
            flow.add(summed.call(numbers.result))
        queue.drain()
    assert sums == [1500]


def test_results_that_are_no_arguments_are_named_by_member_or_stage(recorder):
    with Flow() as flow:
        one = flow.add(charge.call(1), stage="paid")
        two = flow.add(charge.call(2), stage="paid")
        flow.add(tell.call(), results="paid", after="paid", when="ended")
        flow.add(tell.call(), results=[two, one])
        flow.add(tell.call(), results=one, after=ended(one))
    assert [message.member.inputs for message in recorder.members[2:]] == [(one.id, two.id), (two.id, one.id), (one.id,)]
    assert recorder.waits()[2:] == [("tell", ["paid"]), ("tell", ["charge", "charge"]), ("tell", ["ended charge"])]


def test_a_flow_that_is_done_tells_how_many_members_did_not_run():
    ran: list[str] = []

    def note(what: str) -> None:
        ran.append(what)

    with as_it_was(), JobsQueue() as queue:
        noted = job(name="note")(note)

        def flow(cancelled: bool) -> FlowStatus:
            with Flow() as flow:
                first = flow.add(noted.call("first"))
                flow.add(noted.call("second"), after=first)
                flow.add(noted.call("not all ran"), after=flow.all, when="failed")
            if cancelled:
                first.handle.cancel()
            queue.drain()
            return flow.handle.progress()

        whole, partly = flow(False), flow(True)
    assert ran == ["first", "second", "not all ran"]
    assert (whole.state, whole.done, whole.cancelled) == ("done", 2, 1)  # the last member was skipped
    assert (partly.state, partly.done, partly.cancelled) == ("done", 1, 2)


class NeverEnding:
    """An application whose job does not end, and whose flow fails after some looks at it."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.waits: list[float] = []

    def flow_status(self, flow_id: str) -> FlowStatus:
        self.looks -= 1
        return FlowStatus("flow", "running" if self.looks else "failed", active=1 if self.looks else 0)

    def may_be_in_job(self) -> bool:
        return False

    def result(self, handle: Any, timeout: float) -> None:
        self.waits.append(timeout)
        raise ResultTimeout("not yet")


def test_a_wait_for_a_result_looks_soon_whether_the_flow_has_failed_and_then_less_often():
    app: Any = NeverEnding(9)
    last: JobHandle[Any] = JobHandle(app, "last", tell, "default", stores_result=True)
    with pytest.raises(JobFailed, match="job last cannot run, because its flow failed"):
        WorkHandle(app, "flow", "", [last]).result()
    assert app.waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5])


# -- mistakes ------------------------------------------------------------------------------------------

USES = {
    "bool": bool,
    "not": operator.not_,
    "str": str,
    "f-string": lambda result: f"{result}",
    "format": lambda result: "{}".format(result),  # noqa: UP032 - the method is the case
    "percent": lambda result: "%s" % result,  # noqa: UP031 - the operator is the case
    "bytes": bytes,
    "len": len,
    "iterate": list,
    "unpack": lambda result: [*result],
    "mapping": lambda result: {**result},
    "contains": lambda result: 1 in result,
    "index": lambda result: result[0],
    "slice": lambda result: result[1:],
    "as an index": lambda result: [1, 2][result],
    "call": lambda result: result(),
    "attribute": lambda result: result.total,
    "method": lambda result: result.upper(),
    "set attribute": lambda result: setattr(result, "x", 1),
    "int": int,
    "float": float,
    "round": round,
    "abs": abs,
    "negative": operator.neg,
    "add": lambda result: result + 1,
    "add to": lambda result: "x" + result,
    "sum": lambda result: sum([result]),
    "multiply": lambda result: 2 * result,
    "divide": lambda result: result / 2,
    "power": lambda result: result**2,
    "or": lambda result: result | {},
    "equal": lambda result: result == "x",
    "unequal": lambda result: result != "x",
    "in a list": lambda result: result in ["x"],  # noqa: FURB171 - `in` is the case
    "less": lambda result: result < 1,
    "greater": lambda result: result >= 1,
    "sort": lambda result: sorted([result, result]),
    "hash": hash,
    "as a key": lambda result: {result: 1},
    "in a set": lambda result: {result},
    "with": lambda result: result.__enter__(),
    "json": json.dumps,
    "join": lambda result: ",".join([str(result)]),
    "reversed": reversed,
    "next": next,
    "open": open,
}


@pytest.mark.parametrize("use", USES)
def test_every_use_of_a_result_but_as_an_argument_is_refused(recorder, use):
    with Flow() as flow:
        result: Any = flow.add(charge.call(7)).result
        with pytest.raises((FlowError, TypeError)) as error:
            USES[use](result)
        if error.type is TypeError:  # Python and json refuse it before they ask the object
            assert use in ("json", "mapping")
        else:
            assert "the result of charge does not exist yet" in str(error.value)
        assert repr(result).startswith("<result of charge ")
        assert copy.deepcopy([result])[0] is result


def test_a_job_outside_the_flow_cannot_take_its_result(recorder):
    with Flow() as flow:
        paid = flow.add(charge.call(7))
        for enqueue in (
            lambda: tell.enqueue(paid.result),
            lambda: tell.enqueue([{"a": paid.result}]),
            lambda: tell.enqueue_many([(paid.result,)]),
            lambda: charge.enqueue(paid.result),  # type: ignore[arg-type]
        ):
            with pytest.raises(FlowError, match="does not exist yet"):
                enqueue()
    with Flow() as other:
        with pytest.raises(FlowError, match="belongs to another flow"):
            other.add(tell.call(paid.result))
        with pytest.raises(FlowError, match="belongs to another flow"):
            other.add(tell.call(), results=paid)
        for foreign in (paid, [paid], ended(paid), flow.all):
            with pytest.raises(FlowError, match="belongs to another flow"):
                other.add(tell.call(), after=foreign)


MISTAKES: dict[str, tuple[Any, str]] = {
    "no call": (lambda flow: flow.add(tell), r"tell\.call\(\.\.\.\)"),
    "a job that is called": (
        lambda flow: flow.add(tell("x")),
        r"got None: write job.call\(...\); job\(...\) calls the function here",
    ),
    "the id of a member": (
        lambda flow: flow.add(tell.call(), after=flow.add(tell.call()).id),
        "is the id of a member, and a text names a stage",
    ),
    "no job": (lambda flow: flow.add(len), "expected a call, a chain or a group"),
    "called": (lambda flow: flow.add(tell(1)), "expected a call"),
    "when": (lambda flow: flow.add(tell.call(), when="never"), 'when: expected "done", "ended" or "failed"'),
    "unknown stage": (lambda flow: flow.add(tell.call(), after="thumbs"), "no stage 'thumbs'"),
    "no target": (lambda flow: flow.add(tell.call(), after=5), "after: expected what flow.add returned"),
    "no target in a list": (lambda flow: flow.add(tell.call(), after=[None]), "after: expected what flow.add returned"),
    "bad label": (lambda flow: flow.add(tell.call(), stage="x" * 200), "stage: expected 1 to 128"),
    "empty label": (lambda flow: flow.add(tell.call(), stage=""), "stage: expected 1 to 128"),
    "own stage": (
        lambda flow: (flow.add(tell.call(), stage="a"), flow.add(tell.call(), stage="a", after="a")),
        "it would itself wait",
    ),
    "twice": (
        lambda flow: (a := flow.add(tell.call()), flow.add(tell.call(), after=[a, ended(a)])),
        r"with and without ended\(\)",
    ),
    "no result": (lambda flow: flow.add(tell.call()).result, "does not store its result"),
    "no result to read": (lambda flow: flow.add(tell.call(), results=flow.add(tell.call())), "does not store its result"),
    "results of nothing": (lambda flow: flow.add(tell.call(), results=[5]), "results: expected members"),
    "result of what may fail": (
        lambda flow: (a := flow.add(charge.call(1)), flow.add(tell.call(a.result), after=ended(a))),
        "may not be there",
    ),
    "result, run when failed": (
        lambda flow: flow.add(tell.call(flow.add(charge.call(1)).result), when="failed"),
        "may not be there",
    ),
    "replace": (lambda flow: flow.add(tell.using(unique=Unique(conflict="replace", scope="queued")).call()), "cannot replace"),
    "debounce": (lambda flow: flow.add(tell.using(unique=Unique.debounce("5s")).call()), "cannot replace"),
    "key of a result": (
        lambda flow: flow.add(charge.using(key="{order}").call(flow.add(charge.call(1)).result)),
        "cannot depend on a result",
    ),
    "unique by a result": (
        lambda flow: flow.add(charge.using(unique=True).call(flow.add(charge.call(1)).result)),
        "cannot depend on a result",
    ),
    "limits of a result": (
        lambda flow: flow.add(charge.using(limits=lambda order: f"x:{order}").call(flow.add(charge.call(1)).result)),
        "cannot depend on a result",
    ),
    "too few arguments": (lambda flow: flow.add(charge.call()), "missing 1 required"),
    "wrong type": (lambda flow: flow.add(charge.call("x")), "argument 'order' of charge"),
    "wrong type beside a result": (
        lambda flow: flow.add(resize.call(flow.add(fetch.call("x")).result, "wide")),
        "argument 'width' of resize",
    ),
    "unknown argument beside a result": (lambda flow: flow.add(resize.call(flow.add(fetch.call("x")).result, high=1)), "high"),
    "result under a bad key": (
        lambda flow: flow.add(tell.call({(1, 2): flow.add(charge.call(1)).result})),
        "use strings as keys",
    ),
    "an id twice": (
        lambda flow: (flow.add(tell.using(id="a").call()), flow.add(tell.using(id="a").call())),
        "has a member with the id 'a' already",
    ),
    "too many": (lambda flow: flow.add(tell.call(), after=[flow.add(tell.call()) for _ in range(1001)]), "1,000 is the most"),
    "step first": (lambda flow: flow.add(chain(resize.step())), "nothing precedes this step"),
    "step in a group of a chain first": (
        lambda flow: chain(group([chain(resize.step())])).enqueue(),
        "nothing precedes this step",
    ),
    "step in a group first": (lambda flow: flow.add(group([resize.step()])), "nothing precedes this step"),
    "job in a chain": (lambda flow: chain(tell.call(), tell), r"write tell\.call\(\.\.\.\) or tell\.step"),
    "job in a group": (lambda flow: group([tell]), r"write tell\.call"),
    "group of nothing": (lambda flow: group(5), "expected job.call"),
    "result in a chain": (lambda flow: flow.add(chain(tell.call(), tell.step())), "does not store its result"),
    "iterating": (lambda flow: list(chain(tell.call())), "cannot be iterated"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found_where_they_are_written(recorder, mistake):
    make, said = MISTAKES[mistake]
    with pytest.raises((JobDefinitionError, ArgumentError), match=said), Flow() as flow:
        make(flow)
    assert recorder.parts == []


def test_a_member_that_is_acknowledged_early_is_refused(recorder):
    early = job(registry=Registry(), name="early", acks="early")(lambda: None)  # type: ignore[call-overload]
    with Flow() as flow, pytest.raises(FlowError, match=r'acks="late"'):
        flow.add(early.call())


def test_a_stage_is_complete_once_something_waits_for_it(recorder):
    """So members cannot wait for themselves: neither through one stage nor through several."""
    with Flow() as flow:
        flow.add(tell.call(), stage="a")
        flow.add(tell.call(), stage="a")
        waiting = flow.add(tell.call(), after="a", stage="b")
        with pytest.raises(FlowError, match=f"tell {waiting.id} waits for stage 'a', which has to be complete"):
            flow.add(tell.call(), stage="a")
        with pytest.raises(FlowError, match="it would itself wait for stage 'b'"):
            flow.add(tell.call(), stage="b", after="b")


EMPTY: dict[str, Any] = {"group": lambda: group([]), "chain": lambda: chain(group([]), group([]))}


@pytest.mark.parametrize("name", EMPTY)
def test_a_stage_exists_although_its_group_is_empty(recorder, name):
    with Flow() as flow:
        first = flow.add(tell.call("first"))
        thumbs = flow.add(EMPTY[name](), stage="thumbs", after=first)
        flow.add(tell.call(), after="thumbs")
        flow.add(tell.call(), after=thumbs)
        flow.add(tell.call(), after=[ended("thumbs"), flow.all], results="thumbs")
        flow.add(EMPTY[name](), stage="none")
        flow.add(tell.call(), after=["thumbs", ended("none")], stage="more")
        with pytest.raises(FlowError, match=r"no stage 'other' \(so far: 'more', 'thumbs', 'none'\)"):
            flow.add(tell.call(), after="other")
    assert [after for _, after in recorder.waits()] == [[], ["tell"], ["tell"], ["ended tell", "*"], ["tell"]]


def test_an_empty_stage_is_complete_once_something_waits_for_it_and_not_before(recorder):
    with Flow() as flow:
        flow.add(group([]), stage="a")
        flow.add(group([]), stage="b")
        flow.add(group([]), stage="b")
        flow.add(tell.call(), stage="b")
        flow.add(tell.call(), after="b")
        flow.add(tell.call(), after="a")
        with pytest.raises(FlowError, match=r"flow.add\(tell\) waits for stage 'a', which has to be complete"):
            flow.add(tell.call(), stage="a")
        flow.add(group([]), stage="c")
        with pytest.raises(FlowError, match="has to be complete"):
            flow.add(tell.call(), stage="c", after="c")
    assert recorder.waits() == [("tell", []), ("tell", ["b"]), ("tell", [])]


def test_a_stage_does_not_mix_members_of_body_and_finale(recorder):
    with Flow() as flow:
        flow.add(tell.call(), stage="body")
        last = flow.add(tell.call(), after=flow.all, stage="end")
        for stage, after in (("body", flow.all), ("body", last), ("end", ())):
            with pytest.raises(FlowError, match="use two labels"):
                flow.add(tell.call(), stage=stage, after=after)
        flow.add(tell.call(), after=last, stage="end")
        flow.add(tell.call(), after="end", stage="more")
        with pytest.raises(FlowError, match="use two labels"):
            flow.add(tell.call(), stage="more")


def test_a_chain_that_cannot_be_added_whole_keeps_its_flow_from_being_sent(recorder):
    broken = chain(fetch.call("a"), resize.step("wide"))  # type: ignore[arg-type]
    with pytest.raises(FlowError, match="was not sent: .* incomplete"), Flow() as flow:
        with pytest.raises(ArgumentError):
            flow.add(broken)
        with pytest.raises(FlowError, match="incomplete"):
            flow.add(tell.call())
    with Flow() as flow:
        with pytest.raises(ArgumentError):
            flow.add(fetch.call(5))  # type: ignore[arg-type]  # nothing of it was added
        flow.add(tell.call())
    assert len(recorder.members) == 1


def test_an_id_is_chosen_once(recorder):
    with Flow() as flow:
        flow.add(tell.using(id="order-7").call())
        with pytest.raises(FlowError, match="has a member with the id 'order-7' already"):
            flow.add(tell.using(id="order-7").call())


def test_arguments_that_contain_themselves_are_refused_at_once(recorder):
    endless: list[Any] = []
    endless += [endless, endless]
    with Flow() as flow:
        paid = flow.add(charge.call(7))
        for arguments in ([endless], [endless, paid.result]):
            with pytest.raises((MessageError, ArgumentError)):
                flow.add(tell.call(*arguments))
        flow.add(tell.call([[paid.result]] * 3))
    assert list(envelope(recorder.members[-1])["results"]) == ["/args/0/0/0", "/args/0/1/0", "/args/0/2/0"]


def test_a_flow_takes_members_only_within_its_block(recorder):
    flow = Flow()
    with pytest.raises(FlowError, match="with Flow"):
        flow.add(tell.call())
    with flow:
        flow.add(tell.call())
    with pytest.raises(FlowError, match="was sent"):
        flow.add(tell.call())
    with pytest.raises(FlowError, match="new Flow"):
        flow.__enter__()


def test_a_handle_that_is_used_within_the_block_says_that_the_block_has_not_ended(recorder):
    with Flow() as flow:
        flow.add(tell.call())
        for use in (lambda: flow.handle.wait(0), flow.handle.progress):
            with pytest.raises(FlowLost, match="its `with Flow` block has not ended yet"):
                use()


@pytest.mark.parametrize(
    ("compose", "advice"),
    [
        (lambda: fetch.call("a") | resize.step(), "write chain(fetch.call(...), resize.step(...)).enqueue()"),
        (lambda: resize.step() | resize.step(), "write chain(resize.step(...), resize.step(...)).enqueue()"),
        (lambda: chain(fetch.call("a")) | resize.step(), "write chain(chain(...), resize.step(...)).enqueue()"),
        (lambda: fetch.call("a") | resize, "write chain(fetch.call(...), resize.step(...)).enqueue()"),
        (lambda: group(fetch.call("a")) | merge.step(), "write chain(group(...), merge.step(...)).enqueue()"),
        (lambda: chain(fetch.call("a"), resize.step())(), "a chain cannot be called: write chain(...).enqueue()"),
        (lambda: group(fetch.call("a"))(), "a group cannot be called: write group(...).enqueue()"),
    ],
    ids=["call", "step", "chain", "job itself", "group", "call a chain", "call a group"],
)
def test_celerys_operators_are_answered_with_chain_and_enqueue(compose, advice):
    with pytest.raises(FlowError, match=re.escape(advice)):
        compose()


@pytest.mark.parametrize("options", [{"ttl": 0}, {"ttl": "x"}, {"open_for": -1}, {"headers": 5}, {"name": "a\n"}, {"name": 5}])
def test_options_of_a_flow_are_checked(options):
    with pytest.raises(JobDefinitionError, match="Flow: "):
        Flow(**options)


def test_a_member_that_holds_a_used_key_refuses_the_whole_flow(recorder):
    recorder.conflicts = {1: "holder"}
    with (
        pytest.raises(DuplicateJob, match="its member charge .* job holder holds its unique key 'charge:7'") as error,
        Flow("order") as flow,
    ):
        flow.add(tell.call())
        flow.add(charge.using(unique="{order}").call(7))
    assert error.value.existing_id == "holder"


def test_a_flow_whose_later_part_is_refused_is_dropped(recorder):
    recorder.conflicts = {PART_SIZE: "holder"}
    with pytest.raises(DuplicateJob), Flow() as flow:
        for _ in range(PART_SIZE + 1):
            flow.add(tell.call())
    assert recorder.parts == []  # by cancel_flow


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
def test_a_flow_whose_sending_is_interrupted_between_parts_is_dropped(recorder, interrupt):
    recorder.answers_lost = {0: interrupt("stop")}
    with pytest.raises(interrupt, match="stop"), Flow() as flow:
        flow.add(group(tell.call(n) for n in range(PART_SIZE + 1)))
    assert recorder.parts == []


def test_a_flow_whose_later_part_finds_no_backend_is_dropped(recorder):
    with JobsQueue(Config(enqueue_timeout=0.1)):  # type: ignore[arg-type]  # a Duration is a float
        recorder.answers_lost = {0: BackendUnavailable("no answer")}
        with pytest.raises(BackendUnavailable, match="gave up after enqueue_timeout"), Flow() as flow:
            flow.add(group(tell.call(n) for n in range(PART_SIZE + 1)))
    assert recorder.parts == []


def test_a_flow_whose_last_part_has_arrived_is_not_dropped(recorder):
    recorder.answers_lost = {1: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt), Flow() as flow:
        flow.add(group(tell.call(n) for n in range(PART_SIZE + 1)))
    assert len(recorder.members) == PART_SIZE + 1


def test_a_flow_that_cannot_be_dropped_is_named_in_the_log_and_the_first_error_is_raised(recorder, monkeypatch, caplog):
    def away(self, flow_id, *, finale=False):
        raise BackendUnavailable("away")

    monkeypatch.setattr(MemoryBackend, "cancel_flow", away)
    recorder.answers_lost = {0: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt), Flow() as flow:
        flow.add(group(tell.call(n) for n in range(PART_SIZE + 1)))
    [logged] = [record.getMessage() for record in caplog.records if record.name == "jobs"]
    assert f"`jobsctl flow cancel {flow.id}`" in logged
    assert "away" in logged


@pytest.mark.parametrize("complete", [False, True])
def test_a_key_that_a_half_sent_flow_holds_is_explained(monkeypatch, complete):
    monkeypatch.setattr(FlowSending, "_drop_unfinished", lambda self, flow_id: None)  # its sender was killed
    push_part, holding = MemoryBackend.push_part, Flow("first")

    def interrupted(self, part, messages, request):
        if part.number and not complete:
            raise KeyboardInterrupt
        return push_part(self, part, messages, request)

    monkeypatch.setattr(MemoryBackend, "push_part", interrupted)
    with JobsQueue():
        with contextlib.suppress(KeyboardInterrupt), holding:
            holding.add(charge.using(unique="{order}").call(7))
            holding.add(group(tell.call(n) for n in range(PART_SIZE)))
        with pytest.raises(DuplicateJob) as error, Flow("second") as flow:
            flow.add(charge.using(unique="{order}").call(7))
        with pytest.raises(DuplicateJob) as plain:
            charge.using(unique=Unique("{order}", conflict="raise")).enqueue(7)
    for raised in (error, plain):
        assert (f"`jobsctl flow cancel {holding.id}` frees the key" in str(raised.value)) is not complete


def test_a_backend_without_flows_is_named(monkeypatch):
    monkeypatch.setattr(MemoryBackend, "features", MemoryBackend.features - {"flows"})
    with (
        JobsQueue(),
        pytest.raises(NotSupported, match=r"memory:// does not support flows: its jobs cannot wait for one another: "),
        Flow() as flow,
    ):
        flow.add(tell.call())


def test_a_job_outside_a_flow_has_none():
    found = []

    @job(name="test_flow_api.alone")
    def alone() -> None:
        found.append(current_job().flow)
        with pytest.raises(FlowError, match="not a member"):
            current_job().results()

    with JobsQueue(Config()) as queue:
        queue.perform(alone)
    assert found == [None]
