"""What follows from each end in a flow, compared with the reference of the contract."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from jobs_core.backends.flows import ALL, After, Member, Part
from jobs_core.backends.memory import flows as engine
from jobs_core.backends.memory.flows import Flow
from jobs_core.errors import BackendError
from jobs_core.testing.contract.flow_reference import FINAL, Phase, Reference

WAITING, STUCK, ACTIVE, DONE, DEAD, GONE, _ = Phase


class Recorder:
    def __init__(self):
        self.started, self.removed, self.reserved = [], [], set()

    def start(self, job_id):
        self.started.append(job_id)

    def remove(self, job_id, reason):
        assert reason
        self.removed.append(job_id)

    def is_reserved(self, job_id):
        return job_id in self.reserved

    def release(self, job_id):
        pass


def drawn_member(draw, stages, names, own=None):
    """Draw a member that may be refused."""
    targets = [After(name) for name in names] + [After(ALL, "all")]
    targets += [After(s, "stage") for s in stages]
    chosen = draw(st.lists(st.sampled_from(targets), max_size=3, unique=True))
    after = tuple(After(a.target, a.kind, draw(st.booleans())) for a in chosen)
    stage = draw(st.sampled_from(["", "s", "t", *([None, None] if own is not None else [])]))
    return Member("f", stage, after, draw(st.sampled_from(["done", "done", "ended", "failed"])))


class Pair:
    """A flow and its reference."""

    def __init__(self, data, most):
        self.data, self.most = data, most
        self.flow, self.host, self.reference = Flow(Part("f")), Recorder(), Reference()
        self.nodes = {}

    def add(self, by=None):
        name = f"m{len(self.nodes)}"
        stages = {node.stage for node in self.nodes.values()} - {""}
        live = [each for each, phase in self.reference.phase.items() if phase not in FINAL]
        place = drawn_member(self.data.draw, sorted(stages), live, by)
        adder = self.nodes[by] if by else None
        try:
            (node,) = self.flow.plan([(name, place)], adder)
        except BackendError:
            return
        self.flow.add(node)
        self.nodes[name] = node
        self.reference.add(name, Member("f", node.stage, place.after, place.when), by)
        assert node.finale == self.reference.finale[name]

    def quiesce(self):
        while self.flow.has_work:
            assert self.flow.proceed(self.host, self.most) <= self.most
        self.reference.settle_down()
        assert {name: Phase(node.phase.value) for name, node in self.nodes.items()} == self.reference.phase
        if not any(phase is ACTIVE for phase in self.reference.phase.values()):
            assert WAITING not in self.reference.phase.values(), "a flow waits for ever"

    def draw_event(self):
        phases = self.reference.phase
        events = [
            (name, end) for name, phase in phases.items() if phase is ACTIVE for end in (DONE, DEAD, GONE, "adds", "adds")
        ]
        if not self.flow.cancelled:
            events += [(name, ACTIVE) for name, phase in phases.items() if phase is DEAD]
            events += [(name, end) for name, phase in phases.items() if phase in (WAITING, STUCK) for end in (GONE, DEAD)]
            events += [(name, GONE) for name, phase in phases.items() if phase is DEAD]
            events += [("", "cancel"), ("", "cancel all but the finale")]
        return self.data.draw(st.sampled_from(events)) if events else None

    def happen(self, name, event):
        if name == "":
            active = [each for each, phase in self.reference.phase.items() if phase is ACTIVE]
            self.host.reserved = set(self.data.draw(st.lists(st.sampled_from(active), unique=True))) if active else set()
            self.reference.cancelled, self.reference.keeps_finale = True, event != "cancel"
            for each, phase in self.reference.phase.items():
                if phase is ACTIVE and self.reference.barred(each) and each not in self.host.reserved:
                    self.reference.phase[each] = GONE
            self.flow.cancel(finale=event != "cancel")
        elif event == "adds":
            if not self.flow.cancelled:
                self.add(name)
                self.flow.begin()
        elif event is ACTIVE:
            self.reference.phase[name] = WAITING
            self.flow.retry(self.nodes[name], self.host)
        else:
            self.reference.phase[name] = event
            self.flow.enter(self.nodes[name], engine.Phase(event.value))


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 9), st.integers(1, 4))
def test_the_engine_agrees_with_the_definitions(data, count, most):
    pair = Pair(data, most)
    for _ in range(count):
        pair.add()
    pair.flow.close()
    pair.quiesce()
    for _ in range(12):
        event = pair.draw_event()
        if event is None:
            break
        pair.happen(*event)
        pair.quiesce()
    kept = {name for name, phase in pair.reference.phase.items() if phase not in FINAL}
    dead = {name for name, phase in pair.reference.phase.items() if phase is DEAD}
    assert set(pair.flow.nodes) == (kept - dead if pair.flow.cancelled else kept)


def member(after="", stage="", when="done", inputs=()):
    kinds = {"*": "all", "s": "stage", "t": "stage", "u": "stage"}
    targets = tuple(After(name, kinds.get(name, "job")) for name in after.split())
    return Member("f", stage, targets, when, inputs)


REFUSED = {
    "a member that is not there": [member("x")],
    "a member that comes later in the part": [member("m1"), member()],
    "itself": [member("m0")],
    "a stage that is not there": [member("s")],
    "its own stage": [member(stage="s"), member("s", "s")],
    "a stage that grows after something waits for it": [member(stage="s"), member("s", "t"), member(stage="s")],
    "a cycle of two stages": [member(stage="s"), member("s", "t"), member("t", "s")],
    "a stage of body and finale": [member(stage="s"), member("*", "s")],
    "a stage of finale and body": [member(), member("*", "s"), member(stage="s")],
    "a stage of body and what follows from the finale": [member(stage="s"), member("*", "t"), member("t", "s")],
    "too many targets": [member(), member("m0 " * 1001)],
    "a result that it does not wait for": [member(), member(inputs=("m0",))],
}


@pytest.mark.parametrize("members", REFUSED.values(), ids=REFUSED)
def test_a_part_is_refused_as_a_whole(members):
    flow = Flow(Part("f"))
    with pytest.raises(BackendError, match="cannot be a member of flow f: "):
        flow.plan([(f"m{n}", each) for n, each in enumerate(members)])
    assert (flow.nodes, flow.stages, flow.total) == ({}, {}, 0)


TAKEN = {
    "what it waits for": [member(), member("m0", inputs=("m0",))],
    "members of its stage": [member(stage="s"), member("s", inputs=("m0",))],
    "members of the body": [member(), member("*", inputs=("m0",))],
    "a stage of the finale": [member(), member("*", "s"), member("s", "t")],
}


@pytest.mark.parametrize("members", TAKEN.values(), ids=TAKEN)
def test_a_part_is_taken_as_a_whole(members):
    assert len(Flow(Part("f")).plan([(f"m{n}", each) for n, each in enumerate(members)])) == len(members)
