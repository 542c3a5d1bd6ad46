"""Members of flows in a worker: results become arguments, and what cannot be an argument is a dead letter that says why."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from jobs_core import (
    App,
    ArgumentError,
    Config,
    Discard,
    DuplicateJob,
    EndlessWait,
    Flow,
    FlowError,
    FlowHandle,
    FlowLost,
    JobFailed,
    JobWasCancelled,
    ResultTimeout,
    Retry,
    chain,
    current_job,
    ended,
    group,
    job,
)
from jobs_core.backends.base import Delivery, Outcome, Settlement
from jobs_core.backends.memory import MemoryBackend
from jobs_core.errors import UnknownAttribute
from jobs_core.ids import new_token
from jobs_core.message import PACKED_RESULTS_VERSION, Message, Signer, decode, encode
from jobs_core.registry import Registry
from jobs_core.testing import JobsQueue
from jobs_core.worker.decoder import Decoder

from ...support.project import PATIENCE

KEYS = {"signing_keys": ["k1:0123456789abcdef0123456789abcdef"]}
SECRETS = {"encryption_keys": ["e1:0123456789abcdef0123456789abcdef"]}


@dataclasses.dataclass
class Order:
    number: int
    lines: list[str]


ran: list[Any] = []


@job(name="flow.order", store_result=True)
def order(number: int) -> Order:
    return Order(number, ["a"])


@job(name="flow.value", store_result=True)
async def value(what: Any) -> Any:
    return what


@job(name="flow.take")
def take(order: Order, many: list[Order] = [], /, *more: int, by: dict[str, Order] = {}) -> None:  # noqa: B006 - not changed
    ran.append((order, many, more, by))


@job(name="flow.number")
def number(first: int, second: int = 0) -> None:
    ran.append((first, second))


@job(name="flow.note")
def note(*what: Any) -> None:
    ran.append(what)


@job(name="flow.fail", store_result=True)
def fail() -> int:
    raise Discard("no")


@job(name="flow.read")
def read() -> None:
    ran.append(list(current_job().results()))


@job(name="flow.set", store_result=True)
def unstorable() -> Any:
    return object()


@job(name="flow.stop")
def stop() -> None:
    own = current_job().flow
    assert own is not None
    ran.append((own.id, own.handle.status(), own.cancel()))


ELSEWHERE: list[Any] = []


@job(name="flow.unpack")
def unpack() -> None:
    flow = current_job().flow
    assert flow is not None
    one = flow.add(value.call(7))
    flow.add(note.call("added", one.result))
    flow.add(group([value.call(1), value.call(2)]).then(note.step()))
    flow.add(note.call("all"), after=ended(one), stage="other")
    with pytest.raises(FlowError, match="another flow"):
        flow.add(note.call(), after=ELSEWHERE[0])
    if current_job().attempt == 1:
        raise Retry("adds nothing", delay=5)


@pytest.fixture(autouse=True)
def _clear():
    ran.clear()


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "signed": KEYS,
    "encrypted": SECRETS,
    "both": {**KEYS, **SECRETS},
    "in a payload store": KEYS,
}


@pytest.fixture(params=SETTINGS)
def queue(request, tmp_path):
    settings = dict(SETTINGS[request.param])
    if request.param == "in a payload store":
        settings["payloads"] = {"url": tmp_path.as_uri(), "above": 1}
    with JobsQueue(Config(**settings)) as queue:
        yield queue


def reasons(queue: JobsQueue) -> list[tuple[str, str]]:
    """Return the reason and the last error of each dead letter."""
    return [(letter.reason, msgspec.json.decode(letter.errors[-1])["message"]) for letter in queue.dead()]


def test_results_are_converted_to_the_annotated_types_wherever_they_stand(queue):
    with Flow() as flow:
        one, two = flow.add(order.call(1)), flow.add(order.call(2))
        three = flow.add(value.call(3))
        flow.add(take.call(one.result, [two.result, one.result], three.result, by={"x": two.result}))
        flow.add(number.call(second=three.result, first=1))
    queue.drain()
    first, second = Order(1, ["a"]), Order(2, ["a"])
    assert sorted(ran, key=len) == [(1, 3), (first, [second, first], (3,), {"x": second})]
    assert flow.handle.status() == "done"
    assert one.handle.result(1) == first


def test_two_members_that_take_one_result_do_not_share_it(queue):
    with Flow() as flow:
        it = flow.add(value.call([0]))
        flow.add(note.call(it.result, it.result))
    queue.drain()
    ((one, two),) = ran
    assert one == two == [0]
    assert one is not two


def test_chains_and_groups_pass_results_on(queue):
    with_list = group(value.call(n) for n in range(3)).then(note.step("x")).enqueue()
    queue.drain()
    assert ran == [([0, 1, 2], "x")]
    single = chain(value.call(5), value.step(), value.step()).enqueue()
    fan = chain(value.call(5), group([value.step(), value.step()])).enqueue()
    queue.drain()
    assert (single.result(1), fan.result(1)) == (5, [5, 5])
    assert with_list.status() == "done"


MISFITS: dict[str, tuple[Any, str]] = {
    "wrong type": ("text", r"argument 'first' of flow\.number: expected int, got str \(it takes the result of member {0}\)"),
    "null": (None, r"argument 'first' of flow\.number: .*it takes the result of member {0}"),
    "nested": ([1], r"argument 'first' .*member {0}"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_result_that_does_not_fit_is_a_dead_letter_that_names_its_member(queue, misfit):
    given, said = MISFITS[misfit]
    with Flow() as flow:
        it = flow.add(value.call(given))
        flow.add(number.call(it.result, 5))
    queue.drain(raise_errors=False)
    ((reason, error),) = reasons(queue)
    assert reason == "bad arguments"
    assert re.search(said.format(it.id), error), error
    assert flow.handle.status() == "failed"


def test_a_result_that_does_not_fit_a_class_names_its_member_too(queue):
    with Flow() as flow:
        it = flow.add(value.call({"number": "x"}))
        flow.add(take.call(flow.add(order.call(1)).result, [it.result]))
    queue.drain(raise_errors=False)
    ((reason, error),) = reasons(queue)
    assert reason == "bad arguments"
    assert f"(it takes the result of member {it.id})" in error


def test_a_result_that_is_no_json_or_is_not_stored_is_a_dead_letter_that_says_so(queue):
    with Flow() as flow:
        it = flow.add(unstorable.call())
        flow.add(note.call(it.result))
    queue.drain(raise_errors=False)
    ((reason, error),) = reasons(queue)
    assert reason == "bad payload"
    assert f"the result of member {it.id} cannot be an argument: it was not stored: " in error


def test_results_that_are_too_large_together_are_read_with_results(queue):
    big = "x" * 600_000
    with Flow() as flow:
        one, two = flow.add(value.call(big)), flow.add(value.call(big[1:]))
        flow.add(note.call(one.result, two.result))
        flow.add(read.call(), results=[one, two])
    queue.drain(raise_errors=False)
    ((reason, error),) = reasons(queue)
    assert reason == "bad payload"
    assert "current_job().results()" in error
    assert ran == [[(one.id, big), (two.id, big[1:])]]


@pytest.mark.parametrize("beside", [0, 1])
def test_a_result_of_an_unknown_member_is_not_blamed_on_the_size_of_results(queue, beside):
    @job(name=f"flow.names-nobody-{new_token()}")
    def names_nobody() -> None:
        own = current_job().flow
        assert own is not None
        own.add(note.call(own.member("nobody").result, *[own.member(known.id).result] * beside))

    with Flow() as flow:
        known = flow.add(value.call(1))
        taker = flow.add(names_nobody.call(), after=known)
        flow.add(note.call(known.result), after=taker)  # so that the result is kept
    queue.drain(raise_errors=False)
    ((reason, error),) = reasons(queue)
    assert reason == "bad payload"
    assert f"the result of member nobody is not there: flow {flow.id} has no member of this id" in error
    assert "max_message" not in error


def test_results_leaves_out_members_that_have_none(queue):
    with Flow() as flow:
        members = [flow.add(call) for call in (fail.call(), value.call(1), fail.call(), value.call(2), fail.call())]
        flow.add(read.call(), results=members, after=[ended(member) for member in members])
        flow.add(read.call(), results=members, when="ended")
    queue.drain(raise_errors=False)
    assert ran == 2 * [[(members[1].id, 1), (members[3].id, 2)]]


# -- signatures ----------------------------------------------------------------------------------------

FORGED = {
    "unsigned": lambda stored, signer, flow, member: stored.partition(b"\n")[2],
    "changed": lambda stored, signer, flow, member: stored.replace(b"1}", b"2}"),
    "of another member": lambda stored, signer, flow, member: signer.sign_result(flow, "other", stored.partition(b"\n")[2]),
    "of another flow": lambda stored, signer, flow, member: signer.sign_result("other", member, stored.partition(b"\n")[2]),
    "as a message": lambda stored, signer, flow, member: signer.sign(stored.partition(b"\n")[2]),
    "by another key": lambda stored, signer, flow, member: Signer(["k2:0123456789abcdef"]).sign_result(
        flow, member, b'{"value":1}'
    ),
    "garbage": lambda stored, signer, flow, member: b"\xff\x00",
}


@pytest.mark.parametrize("forgery", FORGED)
def test_a_forged_result_never_becomes_an_argument(monkeypatch, forgery):
    reserve, settle = MemoryBackend.reserve, MemoryBackend.settle
    with JobsQueue(Config(**KEYS)) as queue:

        def forged(self, topics, limit, request):
            found = reserve(self, topics, limit, request)
            make = FORGED[forgery]
            return [
                replace(each, inputs=tuple((of, make(stored, queue.app.signer, each.flow, of)) for of, stored in each.inputs))
                for each in found
            ]

        with Flow() as flow:
            it = flow.add(value.call(1))
            flow.add(number.call(it.result))
        monkeypatch.setattr(MemoryBackend, "reserve", forged)
        queue.drain(raise_errors=False)
        ((reason, error),) = reasons(queue)
    assert settle is MemoryBackend.settle
    assert ran == []
    assert reason == "bad payload"
    assert f"the result of member {it.id} cannot be an argument: the " in error


def test_only_results_of_members_are_signed_and_handles_read_both():
    with JobsQueue(Config(**KEYS)) as queue:
        alone = value.enqueue(1)
        with Flow() as flow:
            it = flow.add(value.call(2))
            flow.add(note.call(it.result))
        queue.drain()
        stored = {each: queue.app.find(each).result for each in (alone.id, it.id)}  # type: ignore[union-attr]
        assert stored[alone.id] == b'{"value":1}'
        assert stored[it.id].startswith(b"jobs1.k1.")
        assert (alone.result(1), it.handle.result(1)) == (1, 2)
        assert ran == [(2,)]


# -- envelopes -----------------------------------------------------------------------------------------

ENVELOPES: dict[str, tuple[dict[str, Any], str]] = {
    "no place": ({"args": [1], "results": {"/args/5": "m"}}, "no null at '/args/5'"),
    "no null there": ({"args": [1], "results": {"/args/0": "m"}}, "no null at '/args/0'"),
    "the root": ({"args": [None], "results": {"": "m"}}, "no null at ''"),
    "the list itself": ({"args": [None], "results": {"/args": "m"}}, "no null at '/args'"),
    "another field": ({"args": [None], "results": {"/headers/x": "m"}}, "no null at '/headers/x'"),
    "no number": ({"args": [None], "results": {"/args/x": "m"}}, "no null at '/args/x'"),
    "a negative number": ({"args": [None], "results": {"/args/-1": "m"}}, "no null at '/args/-1'"),
    "a leading zero": ({"args": [None], "results": {"/args/00": "m"}}, "no null at '/args/00'"),
    "into a string": ({"args": ["x"], "results": {"/args/0/0": "m"}}, "no null at '/args/0/0'"),
    "into null": ({"args": [None], "results": {"/args/0/0": "m"}}, "no null at '/args/0/0'"),
    "no slash": ({"args": [None], "results": {"args/0": "m"}}, "no null at 'args/0'"),
    "not there": ({"args": [None], "results": {"/args/0": "other"}}, "the result of member other is not there"),
}


def accepted(app: App, fields: dict[str, Any], flow: str = "f") -> Any:
    message = Message(v=2, id="j", job="flow.number", topic="default", **fields)
    inputs = (("m", b'{"value":1}'),)
    return Decoder(app).accept(Delivery("j", "default", encode(message), 1, 0, 0, 0, 0, 0, 0, flow=flow, inputs=inputs))


@pytest.mark.parametrize("envelope", ENVELOPES)
def test_hostile_places_are_dead_letters(envelope):
    fields, said = ENVELOPES[envelope]
    with JobsQueue() as queue:
        ending = accepted(queue.app, fields)
    assert isinstance(ending, Settlement)
    assert ending.outcome is Outcome.DEAD
    assert said in msgspec.json.decode(ending.error)["message"]


def test_an_envelope_with_results_outside_a_flow_is_a_dead_letter():
    with JobsQueue() as queue:
        ending = accepted(queue.app, {"args": [None], "results": {"/args/0": "m"}}, flow="")
        assert b"not pushed as a member of a flow" in ending.error
        run = accepted(queue.app, {"args": [None], "results": {"/args/0": "m"}})
        assert run.args == [1]


def test_an_envelope_takes_results_only_of_its_own_flow():
    """The store says of which flow a delivery is a member; only the envelope is signed."""
    with JobsQueue() as queue:
        fields = {"args": [None], "results": {"/args/0": "m"}, "flow": "f"}
        assert accepted(queue.app, fields).args == [1]
        assert b"but was delivered as a member of flow other" in accepted(queue.app, fields, flow="other").error


def test_versions_tell_older_workers_to_leave_results_to_newer_ones():
    """Before, version 2 meant a body, and 3 was unknown: both are put off by workers that do not know results."""
    with JobsQueue(Config(**SECRETS)) as queue, Flow() as flow:
        it = flow.add(value.call(1))
        flow.add(note.call(it.result))
        (_, taking) = [message.payload for message in flow._outgoing]
        assert decode(taking, topic="default").v == PACKED_RESULTS_VERSION
        assert queue.app.payloads.unpacked(decode(taking, topic="default")).results == {"/args/0": it.id}


@pytest.mark.parametrize(
    "fields", [{"v": 3, "results": {}}, {"v": 3, "body": {"data": ""}}, {"v": 2, "body": {"data": ""}, "results": {}}]
)
def test_a_version_that_does_not_match_its_fields_is_refused(fields):
    payload = msgspec.json.encode({"id": "j", "job": "x", "topic": "t", **fields})
    with pytest.raises(Exception, match="an envelope of version [23] has a body"):
        decode(payload, topic="t")


def test_a_member_whose_topic_acknowledges_early_is_acknowledged_late(caplog):
    early = job(name="flow.early", acks="early", registry=Registry())(lambda: None)  # type: ignore[call-overload]
    with JobsQueue() as queue:
        queue.app.registry.add(early)
        message = Message(v=1, id="j", job="flow.early", topic="default")
        run = Decoder(queue.app).accept(Delivery("j", "default", encode(message), 1, 0, 0, 0, 0, 0, 0, flow="f"))
    assert run.policy.acks == "late"  # type: ignore[union-attr]
    assert "is a member of a flow, so it is acknowledged after it has run" in caplog.text


# -- from inside a member ------------------------------------------------------------------------------


def test_a_member_adds_members_with_its_acknowledgement_to_its_own_stage(queue):
    with Flow() as other:
        ELSEWHERE[:] = [other.add(note.call("other"))]
    queue.drain()
    ran.clear()
    with Flow() as flow:
        flow.add(unpack.call(), stage="parts")
        flow.add(note.call("after parts"), after="parts")
        flow.add(note.call("after all"), after=flow.all)
    queue.drain(raise_errors=False)
    assert ran == []
    queue.drain(scheduled=True)
    own = [("added", 7), ([1, 2],), ("after parts",)]
    assert [each for each in ran if each in own] == own
    assert ran[-1] == ("after all",)
    assert ("all",) in ran
    assert flow.handle.progress().total == 9


def test_a_member_adds_a_chain_whole_or_not_at_all(queue):
    @job(name=f"flow.adds-{new_token()}")
    def adds() -> None:
        own = current_job().flow
        assert own is not None
        own.add(note.call("kept"))
        with pytest.raises(ArgumentError):
            own.add(chain(note.call("half"), number.call("x")))  # type: ignore[arg-type]

    with Flow() as flow:
        flow.add(adds.call())
    queue.drain()
    assert ran == [("kept",)]
    assert flow.handle.progress().total == 2


def test_an_id_that_a_member_chose_twice_is_an_error_where_it_is_written(queue):
    @job(name=f"flow.chooses-{new_token()}")
    def chooses() -> None:
        chosen = note.using(id="order-7")
        with pytest.raises(ArgumentError):
            current_job().flow.add(chain(chosen.call("dropped with the chain"), number.call("x")))  # type: ignore[arg-type, union-attr]
        current_job().flow.add(chosen.call("first"))  # type: ignore[union-attr]
        with pytest.raises(FlowError, match="id: 'order-7' was given to another member that this job adds"):
            current_job().flow.add(chosen.call("second"))  # type: ignore[union-attr]
        with pytest.raises(FlowError, match=f"id: '{current_job().id}' is this job's own"):
            current_job().flow.add(note.using(id=current_job().id).call())  # type: ignore[union-attr]

    with Flow() as flow:
        flow.add(chooses.call())
    queue.drain()
    assert ran == [("first",)]


def test_a_member_knows_and_cancels_its_flow(queue):
    with Flow() as flow:
        flow.add(note.call(), after=flow.add(stop.call()))
    queue.drain(raise_errors=False)
    assert ran == [(flow.id, "running", True)]
    assert flow.handle.status() == "cancelled"


def test_a_duplicate_names_member_and_holder_and_nothing_of_the_flow_is_sent(queue):
    holder = number.using(unique="{first}").enqueue(7)
    with (
        pytest.raises(DuplicateJob, match=f"its member flow.number .* job {holder.id} holds its unique key") as error,
        Flow() as flow,
    ):
        flow.add(note.call())
        flow.add(number.using(unique="{first}").call(7))
    assert error.value.existing_id == holder.id
    assert flow.handle.status() == "unknown"
    assert queue.drain() == 1


def test_inline_jobs_run_a_whole_flow_at_the_end_of_its_block():
    with JobsQueue() as queue, queue.inline():
        with Flow() as flow:
            it = flow.add(value.call(1))
            flow.add(note.call(it.result))
            assert ran == []
        assert ran == [(1,)]
        assert group([value.call(1)]).enqueue().result(0) == [1]


# -- handles -------------------------------------------------------------------------------------------


def test_the_result_of_a_chain_that_failed_is_an_error_at_once(queue):
    handle = chain(fail.call(), value.step()).enqueue()
    with pytest.raises(ResultTimeout, match="has no result within 0.01 s: running; of 2 members, 1 waiting, 1 in work"):
        handle.result(0.01)
    queue.drain(raise_errors=False)
    with pytest.raises(JobFailed, match=f"its flow failed: .*jobsctl flow retry {handle.id}"):
        handle.result(0.01)
    many = group([fail.call(), value.call(1)]).enqueue()
    queue.drain(raise_errors=False)
    with pytest.raises(JobFailed, match=r"is dead \(discarded: no\)"):
        many.result(0.01)
    cancelled = chain(value.call(1), value.step()).enqueue()
    assert cancelled.cancel()
    queue.drain()
    with pytest.raises(JobWasCancelled):
        cancelled.result(0.01)


def test_the_result_of_a_flow_is_asked_of_its_members(queue):
    with Flow() as flow:
        member = flow.add(value.call(1))
        flow.add(note.call(), after=flow.all, when="failed")
    for word in ("result", "aresult", "get"):
        assert not hasattr(flow.handle, word)
        with pytest.raises(UnknownAttribute, match=rf"has no {word}: .*member\.handle\.result\(timeout=5\)"):
            getattr(flow.handle, word)
    queue.drain()
    assert member.handle.result(timeout=5) == 1
    assert value.handle(member.id).result(timeout=5) == 1
    assert (flow.handle.status(), flow.handle.progress().cancelled) == ("done", 1)  # note was not needed


def test_a_cleanup_with_when_ended_runs_before_a_stuck_member_and_one_with_when_done_runs_last(queue):
    done = []

    @job(name=f"flow.may-fail-{new_token()}", retries=0)
    def may_fail() -> None:
        done.append("tried")
        if done == ["tried"]:
            raise ZeroDivisionError

    with Flow() as flow:
        first = flow.add(may_fail.call())
        flow.add(note.call("stuck"), after=first)
        flow.add(note.call("early"), after=flow.all, when="ended")
        flow.add(note.call("last"), after=flow.all)
    queue.drain(raise_errors=False)
    assert ran == [("early",)]
    assert flow.handle.wait(PATIENCE).state == "failed"  # and not an exception
    assert flow.handle.retry() == 1
    queue.drain()
    assert ran == [("early",), ("stuck",), ("last",)]


def test_cancel_with_the_finale_runs_what_waits_for_any_end_and_not_what_needs_all_done(queue):
    with Flow() as flow:
        flow.add(note.call("body"))
        flow.add(note.call("done"), after=flow.all)
        flow.add(note.call("ended"), after=flow.all, when="ended")
        flow.add(note.call("failed"), after=flow.all, when="failed")
    assert flow.handle.cancel(finale=True)
    queue.drain()
    assert sorted(ran) == [("ended",), ("failed",)]


def test_a_flow_is_found_again_by_its_id(queue):
    with Flow("again") as flow:
        flow.add(value.call(1))
    handle = FlowHandle.of(flow.id)
    assert handle.status() == "running"
    with pytest.raises(ResultTimeout, match="has not ended within 0.01 s: running"):
        handle.wait(0.01)
    queue.drain()
    assert handle.wait(1).done == 1
    assert asyncio.run(handle.async_wait(1)).state == "done"
    assert (asyncio.run(handle.astatus()), asyncio.run(handle.aretry()), asyncio.run(handle.acancel())) == ("done", 0, False)
    for lost in (FlowHandle.of("nobody").progress, lambda: FlowHandle.of("nobody").wait(5)):
        with pytest.raises(FlowLost, match="flow nobody is unknown"):
            lost()


def test_a_member_that_waits_for_its_own_flow_needs_a_timeout(queue):
    @job(name=f"flow.waits-{new_token()}")
    def waits() -> None:
        with pytest.raises(EndlessWait):
            current_job().flow.handle.wait()  # type: ignore[union-attr]

    with Flow() as flow:
        flow.add(waits.call())
    queue.drain()
    assert flow.handle.status() == "done"
