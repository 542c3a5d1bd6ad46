"""What follows from each end in a flow, compared with a reference that recomputes everything from the definitions."""

import hypothesis.strategies as st
from hypothesis import given, settings

from jobs_core.backends.flows import ALL, After, Member, Part
from jobs_core.backends.memory.flows import Flow, Phase

WAITING, STUCK, ACTIVE, DONE, DEAD, GONE = Phase
BAD = (STUCK, DEAD)


class Reference:
    """The definitions of `backends/flows.py`, applied until nothing changes."""

    def __init__(self, members):
        self.members = members
        self.phase = dict.fromkeys(members, WAITING)
        self.open = {name: [(after, None) for after in place.after] for name, place in members.items()}
        self.unresolved = {name: set(range(len(place.after))) for name, place in members.items()}
        self.bad = dict.fromkeys(members, False)
        self.finale = {}
        for name, place in members.items():
            self.finale[name] = any(a.kind == "all" or (a.kind == "job" and self.finale[a.target]) for a in place.after)

    def group(self, after):
        if after.kind == "all":
            return [name for name in self.members if not self.finale[name]]
        return [name for name, place in self.members.items() if place.stage == after.target]

    def end(self, after):
        names = [after.target] if after.kind == "job" else self.group(after)
        phases = [self.phase[name] for name in names]
        if any(phase in (WAITING, ACTIVE) for phase in phases):
            return None
        if GONE in phases:
            return GONE
        return DEAD if any(phase in BAD for phase in phases) else DONE

    def settle_down(self):
        changed = True
        while changed:
            changed = False
            for name, place in self.members.items():
                if self.phase[name] not in (WAITING, STUCK):
                    continue
                changed |= self.look_at(name, place)

    def look_at(self, name, place):
        before = self.phase[name], len(self.unresolved[name])
        stuck = gone = False
        for n in sorted(self.unresolved[name]):
            after = place.after[n]
            end = self.end(after)
            if end is None:
                continue
            any_end = after.ended or place.when != "done"
            if end is DONE or any_end:
                self.unresolved[name].discard(n)
                self.bad[name] |= end is not DONE
            elif end is GONE:
                gone = True
            else:
                stuck = True
        if gone:
            self.phase[name] = GONE
        elif not self.unresolved[name]:
            self.phase[name] = GONE if place.when == "failed" and not self.bad[name] else ACTIVE
        else:
            self.phase[name] = STUCK if stuck else WAITING
        return (self.phase[name], len(self.unresolved[name])) != before


class Recorder:
    def __init__(self):
        self.started, self.removed = [], []

    def start(self, job_id):
        self.started.append(job_id)

    def remove(self, job_id, reason):
        assert reason
        self.removed.append(job_id)


@st.composite
def graphs(draw):
    members, stages = {}, {"": False, "s": False, "t": False}
    for n in range(draw(st.integers(1, 9))):
        stage = draw(st.sampled_from([name for name, sealed in stages.items() if not sealed]))
        targets = [After(name) for name in members] + [After(ALL, "all")]
        targets += [After(s, "stage") for s in ("s", "t") if s != stage and any(m.stage == s for m in members.values())]
        chosen = draw(st.lists(st.sampled_from(targets), max_size=3, unique=True)) if targets else []
        after = tuple(After(a.target, a.kind, draw(st.booleans())) for a in chosen)
        for a in after:
            if a.kind == "stage":
                stages[a.target] = True
        members[f"m{n}"] = Member("f", stage, after, draw(st.sampled_from(["done", "done", "ended", "failed"])))
    return members


@settings(max_examples=400, deadline=None)
@given(st.data(), graphs(), st.integers(1, 4))
def test_the_engine_agrees_with_the_definitions(data, members, most):
    flow, host, reference = Flow(Part("f")), Recorder(), Reference(members)
    nodes = {name: flow.add(name, place) for name, place in members.items()}
    flow.close()

    def quiesce():
        while flow.proceed(host, most):
            pass
        reference.settle_down()
        assert {name: node.phase for name, node in nodes.items()} == reference.phase

    quiesce()
    for _ in range(12):
        events = [(name, end) for name, phase in reference.phase.items() if phase is ACTIVE for end in (DONE, DEAD, GONE)]
        events += [(name, ACTIVE) for name, phase in reference.phase.items() if phase is DEAD]
        events += [(name, GONE) for name, phase in reference.phase.items() if phase in (DEAD, WAITING, STUCK)]
        if not events:
            break
        name, phase = data.draw(st.sampled_from(events))
        reference.phase[name] = phase
        flow.enter(nodes[name], phase)
        quiesce()
    assert len(set(host.started)) == len(host.started)
    live = [name for name, phase in reference.phase.items() if phase not in (DONE, GONE)]
    assert set(flow.nodes) == set(live)
