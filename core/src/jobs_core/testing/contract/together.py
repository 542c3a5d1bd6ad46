"""A Hypothesis state machine in which limits, turns and flows meet, compared with their definitions.

The references recompute everything: `flow_reference.py` says which members are to run, `line_reference.py` which of all jobs
a reserve has to return. What a backend lacks (flows, a movable clock) is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis import Phase as RunPhase
from hypothesis.stateful import precondition, rule, run_state_machine_as_test
from msgspec.structs import replace

from ...backends.base import Answer, Delivery, Outcome, Outgoing, Settlement, State
from ...backends.flows import Member
from ...backends.limits import Limit, Lines
from .flow_reference import Phase
from .machine import EXAMPLES, SHRINKS, STEPS
from .rig import ERROR, Rig, RigCase
from .together_jobs import LONG, WORKERS, TogetherJobs, kinds_of_limits

outcomes = st.sampled_from([*Outcome, Outcome.DONE, Outcome.DONE, Outcome.DEAD, Outcome.DEAD])
AGAIN = (Outcome.RELEASE, Outcome.RETRY, Outcome.DEFER)
definitions = st.sampled_from(
    [
        *(("a", Limit(concurrency=n)) for n in (0, 1, 2)),
        *(("b", Limit(concurrency=n)) for n in (1, 3)),
        ("r", Limit(interval=LONG, burst=2)),
        ("r", Limit(interval=LONG)),
        ("r", Limit(concurrency=1, interval=8.0, burst=2)),
        ("r", Limit(interval=8.0)),
    ]
)
serving = st.sampled_from(
    [Lines(), Lines(fair=True), Lines(fair=True), Lines(fair=True, max_per_key=1), Lines(fair=True, max_per_key=2)]
)
NEEDS = ("strict_order", "browse", "lookup", "cancel", "unique", "owner_release", "results", "pause", "priority")


class Togetherness(RigCase):
    """Run the state machine as one case."""

    examples = EXAMPLES
    """Number of examples to try, as for the machine of `Machine`."""

    def test_limits_turns_and_flows_behave_as_they_are_defined(self, rig: Rig) -> None:
        if not rig.has(*NEEDS) or not (rig.has("flows") or rig.has("limits", "fairness")):
            return
        run_state_machine_as_test(
            partial(Together, rig),  # type: ignore[arg-type]  # a function may take the place of the class
            settings=settings(
                max_examples=self.examples if rig.clock else max(5, self.examples // 2),
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
                print_blob=True,
                phases=[RunPhase.generate, RunPhase.shrink] if SHRINKS else [RunPhase.generate],
            ),
        )


class Together(TogetherJobs):
    """The machine."""

    stepped_back = False
    last: tuple[str, list[Settlement], str] | None = None

    # -- runs --------------------------------------------------------------------------------------

    @rule(
        worker=st.sampled_from(WORKERS),
        limit=st.integers(1, 4),
        order=st.booleans(),
        startable=st.sampled_from([None, None, 0, 1, 2]),
    )
    def reserve(self, worker: str, limit: int, order: bool, startable: int | None) -> None:
        self.step()
        backend, request = self.workers[worker], self.rig.request()
        topics = self.topics if order else self.topics[::-1]
        backend.startable = startable if self.rig.has("limits") else None
        taken = backend.reserve(topics, limit, request)
        self.lines.reserve([each.id for each in taken], topics, limit, backend.startable)
        assert {each.id for each in backend.reserve(topics, limit, request)} == {each.id for each in taken}
        backend.startable = None
        for each in taken:
            self._hold(worker, each)

    def _hold(self, worker: str, held: Delivery) -> None:
        sent, flow_id = self.sent[held.id], self.flow_of.get(held.id, "")
        assert (held.topic, held.key, held.flow) == (sent.topic, sent.key, flow_id)
        assert held.limits == self.lines.entries[held.id].limits
        assert not flow_id or not self.flows[flow_id].barred(held.id)
        self.held[worker][held.id] = held

    @rule(worker=st.sampled_from(WORKERS), data=st.data(), outcome=outcomes, adds=st.integers(0, 2), ran=st.booleans())
    def settle(self, worker: str, data: st.DataObject, outcome: Outcome, adds: int, ran: bool) -> None:
        if not self.held[worker]:
            self.reserve(worker, 1, True, None)
        if not self.held[worker]:
            return
        job_id = data.draw(st.sampled_from(sorted(self.held[worker])))
        flow_id = self.flow_of.get(job_id, "")
        followups: list[Outgoing] = []
        if flow_id and outcome in (Outcome.DONE, Outcome.DEAD, Outcome.EXPIRED):
            followups = [self.outgoing(flow_id, data, own=True) for _ in range(adds)]
        fields: dict[str, Any] = {"reason": "why", "error": ERROR, "result": b"1", "result_ttl": 1000.0, "ran": ran}
        if self.rig.clock:
            fields["after"] = data.draw(st.sampled_from([0.0, 5.0]))
        if self.rig.has("limits") and outcome in AGAIN and data.draw(st.integers(0, 4)) == 0:
            fields["limits"] = self.named(data.draw(kinds_of_limits))
        if self.rig.has("limits") and self.rig.clock and data.draw(st.integers(0, 9)) == 0:
            fields["close_limits"] = ((*self.named(["b"]), 10.0),)
        self._settle(worker, self.held[worker].pop(job_id), outcome, followups, fields)

    def _settle(self, worker: str, held: Delivery, outcome: Outcome, followups: list[Outgoing], fields: dict[str, Any]) -> None:
        self.step()
        job_id, flow_id = held.id, self.flow_of.get(held.id, "")
        settlement = Settlement(job_id, held.token, outcome, followups=tuple(followups), **fields)
        self.last = worker, [settlement], self.rig.request()
        assert self.workers[worker].settle(*self.last[1:]) == [Answer.SETTLED]
        barred = bool(flow_id) and self.flows[flow_id].barred(job_id)
        self.lines.free(job_id, back=not settlement.ran)
        for limit, seconds in settlement.close_limits:
            self.lines.close(limit, seconds)
        for added in followups:
            self._joined(flow_id, added, job_id)
        cancelled = barred or job_id in self.cancelling
        self.cancelling.discard(job_id)
        if outcome in AGAIN and not cancelled:
            self._again(job_id, settlement)
        elif outcome in (Outcome.DEAD, Outcome.EXPIRED):
            self.died(job_id)
        else:
            self._gone(job_id, Phase.DONE if outcome is Outcome.DONE else Phase.GONE)

    def _again(self, job_id: str, settlement: Settlement) -> None:
        entry = self.lines.entries[job_id]
        if settlement.limits is not None:
            entry.limits = settlement.limits
            self.sent[job_id] = replace(self.sent[job_id], limits=settlement.limits)  # it keeps them as a dead letter, too
        if settlement.outcome is Outcome.RELEASE:
            self.lines.make_ready(entry, entry.since, first=True)
        else:
            self.lines.start([(entry, settlement.after)])
        if job_id in self.flow_of:
            self.follow(self.flow_of[job_id])

    def _gone(self, job_id: str, phase: Phase = Phase.GONE) -> None:
        """Note that a job has ended for good."""
        self.lines.entries.pop(job_id, None)
        self.letters.discard(job_id)
        self.cancelling.discard(job_id)
        if job_id in self.flow_of:
            self.ended(job_id, phase)

    def _joined(self, flow_id: str, added: Outgoing, by: str) -> None:
        """Take over what became of a member that a running one added."""
        flow, place = self.flows[flow_id], added.member
        found = self.operator.get(added.id)
        assert found is not None, f"{added.id} was not added"
        assert place is not None
        self.flow_of[added.id], self.sent[added.id] = flow_id, added
        if found.state is State.DEAD:
            assert "cannot be a member" in found.reason
            flow.add_dead(added.id, place, by)
            return
        label = flow.members[by].stage if place.stage is None else place.stage
        flow.add(added.id, Member(flow_id, label, place.after, place.when), by)
        if flow.barred(by):
            flow.phase[added.id] = Phase.GONE

    @rule(worker=st.sampled_from(WORKERS), count=st.integers(1, 4))
    def run(self, worker: str, count: int) -> None:
        """Run jobs to their end, and settle them together."""
        self.reserve(worker, count, True, None)
        self._run_held(worker)

    def _run_held(self, worker: str) -> None:
        self.step()
        held, self.held[worker] = self.held[worker], {}
        settlements = [Settlement(each.id, each.token, Outcome.DONE) for each in held.values()]
        assert self.workers[worker].settle(settlements, self.rig.request()) == [Answer.SETTLED] * len(held)
        flows = set()
        for job_id in held:
            self.cancelling.discard(job_id)
            del self.lines.entries[job_id]
            if job_id in self.flow_of:
                flows.add(self.flow_of[job_id])
                self.flows[self.flow_of[job_id]].phase[job_id] = Phase.DONE
        for flow_id in flows:
            self.follow(flow_id)

    @precondition(lambda self: self.last)
    @rule()
    def repeat_settle(self) -> None:
        assert self.last
        assert Answer.SETTLED not in self.workers[self.last[0]].settle(*self.last[1:])

    @rule(worker=st.sampled_from(WORKERS), end=st.sampled_from(["release", "close", "expire"]), started=st.integers(0, 2))
    def owner_ends(self, worker: str, end: str, started: int) -> None:
        """End an owner, and open it again."""
        self.step()
        ids, owner = list(self.held[worker]), f"{self.prefix}-{worker}"
        if end == "release" or (end == "expire" and not self.rig.clock):
            assert self.operator.release_owner(owner, ids[:started], ERROR) == len(ids)
            self._released(worker, ids[:started])
        elif end == "close":
            self.workers[worker].close()
            self._released(worker, [])
        else:
            self._alone(WORKERS[1 - WORKERS.index(worker)])
            self._released(worker, ids)
        self.workers[worker].close()
        self.workers[worker] = self._open(worker)
        self.last = None

    def _alone(self, survivor: str) -> None:
        """Let the lease of the other worker run out, while no job becomes due."""
        for _ in range(8):
            self.rig.advance(self.rig.lease / 4)
            self.workers[survivor].heartbeat()
            self.operator.housekeep(1000)
        self.step()

    def _released(self, worker: str, started: list[str]) -> None:
        """Note that an owner has gone; jobs that it had not started come first in turn."""
        held, self.held[worker] = list(self.held[worker]), {}
        for job_id in held:
            self.lines.free(job_id, back=job_id not in started)
        for job_id in held:
            flow = self.flows.get(self.flow_of.get(job_id, ""))
            if job_id in self.cancelling or (flow is not None and flow.barred(job_id)):
                self._gone(job_id)
                continue
            entry = self.lines.entries[job_id]
            self.lines.make_ready(entry, entry.since, first=job_id not in started)

    @precondition(lambda self: self.rig.has("claim"))
    @rule(worker=st.sampled_from(WORKERS), data=st.data())
    def claim(self, worker: str, data: st.DataObject) -> None:
        """Take over jobs, whoever has them: they count in no limit."""
        known = sorted(self.lines.entries.keys() | self.flow_of.keys() - self.cancelling)
        if not known:
            return
        self.step()
        ids = data.draw(st.lists(st.sampled_from(known), max_size=3, unique=True))
        claimed = self.workers[worker].claim(ids, self.rig.request())
        barred = {each for each in ids if each in self.flow_of and self.flows[self.flow_of[each]].barred(each)}
        assert {each.id for each in claimed} == {each for each in ids if each in self.lines.entries} - barred
        for each in claimed:
            entry = self.lines.entries[each.id]
            if entry.state == "reserved":
                self.lines.free(each.id, back=False)
            for held in self.held.values():
                held.pop(each.id, None)
            self.lines.take(entry, claimed=True)
            self._hold(worker, each)

    @rule(worker=st.sampled_from(WORKERS))
    def heartbeat(self, worker: str) -> None:
        told = self.workers[worker].heartbeat()
        barred = {each for each in self.held[worker] if each in self.flow_of and self.flows[self.flow_of[each]].barred(each)}
        assert set(told.cancelled) == (barred | self.cancelling) & self.held[worker].keys()
        assert not told.lost

    # -- time and definitions ----------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, 9.0, 31.0, 200.0, -5.0]))
    def time_passes(self, seconds: float) -> None:
        """Let time pass; now and then, set the clock back."""
        if not self.rig.clock or (seconds < 0 and self.stepped_back):
            return
        self._keep_house()
        self.stepped_back |= seconds < 0
        self.rig.advance(seconds)
        self._keep_house()

    def _keep_house(self) -> None:
        """Move what is due, while all workers live."""
        self.step()
        for worker in self.workers.values():
            worker.heartbeat()
        while self.operator.housekeep(1000).more:
            pass

    @precondition(lambda self: self.rig.has("limits"))
    @rule(definition=definitions, override=st.booleans(), reset=st.booleans(), value=st.sampled_from(["", ":1"]))
    def define(self, definition: tuple[str, Limit], override: bool, reset: bool, value: str) -> None:
        """Define a limit, override it or one of its values, or take that back."""
        self.step()
        (name,), limit = self.named([definition[0]]), definition[1]
        if not override:
            self.operator.define_limits({name: limit}, {})
            self.lines.defined[name] = limit
            return
        self.operator.override_limit(name + value, None if reset else limit)
        if reset:
            self.lines.reset(name + value)
        else:
            self.lines.overrides[name + value] = limit

    @precondition(lambda self: self.rig.has("fairness"))
    @rule(data=st.data(), rules=serving)
    def serve(self, data: st.DataObject, rules: Lines) -> None:
        """Serve a topic by other rules."""
        self.step()
        topic = data.draw(st.sampled_from(self.topics))
        self.operator.define_limits({}, {topic: rules})
        self.lines.set_rules(topic, rules)

    @rule(data=st.data(), paused=st.booleans())
    def pause(self, data: st.DataObject, paused: bool) -> None:
        topic = data.draw(st.sampled_from(self.topics))
        (self.operator.pause if paused else self.operator.resume)(topic)
        (self.lines.paused.add if paused else self.lines.paused.discard)(topic)

    # -- operators ---------------------------------------------------------------------------------

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), verb=st.sampled_from(["cancel", "requeue", "discard", "drop"]))
    def operate(self, data: st.DataObject, verb: str) -> None:
        self.step()
        job_id = data.draw(st.sampled_from(sorted(self.sent)))
        flow = self.flows.get(self.flow_of.get(job_id, ""))
        phase = flow.phase[job_id] if flow else None
        entry = self.lines.entries.get(job_id)
        reserved = entry is not None and entry.state == "reserved"
        queued = (entry is not None and not reserved) or phase in (Phase.WAITING, Phase.STUCK)
        if verb == "cancel":
            self.operator.cancel(job_id)
            if reserved:
                self.cancelling.add(job_id)
            elif queued:
                self._gone(job_id)
        elif verb == "requeue":
            self._requeue(job_id)
        elif verb == "discard":
            assert self.operator.discard([job_id], "not wanted") == queued
            if queued:
                self.lines.entries.setdefault(job_id, self._entry(self.sent[job_id]))
                self.died(job_id)
        elif self._is_dead(job_id):
            assert self.operator.drop([job_id]) == 1
            if not (flow and flow.cancelled):
                self._gone(job_id)
        else:
            assert self.operator.drop([job_id]) == 0

    def _is_dead(self, job_id: str) -> bool:
        """Return whether a job is a dead letter; those that nothing needs may have been trimmed."""
        flow = self.flows.get(self.flow_of.get(job_id, ""))
        dead = job_id in self.letters if flow is None else flow.phase[job_id] is Phase.DEAD
        if not dead or (flow is not None and not flow.cancelled):
            return dead
        found = self.operator.get(job_id)
        return found is not None and found.state is State.DEAD

    def _requeue(self, job_id: str) -> None:
        flow = self.flows.get(self.flow_of.get(job_id, ""))
        entry = self.lines.entries.get(job_id)
        dead = self._is_dead(job_id) if flow is None else job_id in flow.can_be_retried()
        scheduled = entry is not None and entry.state == "scheduled"
        assert self.operator.requeue([job_id]) == (dead or scheduled)
        if entry is not None and scheduled:
            self.lines.start([(entry, 0.0)])
        elif dead and flow is not None:
            self.ended(job_id, Phase.WAITING, at_once=True)
        elif dead:
            self.letters.discard(job_id)
            self.lines.start([(self._entry(self.sent[job_id]), 0.0)])

    @rule(
        data=st.data(),
        what=st.sampled_from(
            ["retry", "retry", "cancel", "finale", "trim", State.READY, State.SCHEDULED, State.WAITING, State.DEAD]
        ),
    )
    def operate_on_many(self, data: st.DataObject, what: str | State) -> None:
        """One rule for what happens rarely."""
        calls: dict[str | State, Callable[[str], None]] = {
            "retry": self._retry, "cancel": self._cancel, "finale": partial(self._cancel, finale=True),
        }  # fmt: skip
        if isinstance(what, State):
            self._purge(data.draw(st.sampled_from(self.topics)), what)
        elif what in calls:
            if self.flows:
                self.step()
                calls[what](data.draw(st.sampled_from(sorted(self.flows))))
        elif self.rig.clock:
            self._trim()

    def _purge(self, topic: str, state: State) -> None:
        if state is State.WAITING and not self.rig.has("flows"):
            return
        self._keep_house()
        self.step()
        phases = {State.WAITING: (Phase.WAITING, Phase.STUCK), State.DEAD: (Phase.DEAD,)}.get(state, ())
        for flow in self.flows.values():
            for job_id in flow.named(*phases):
                if self.sent[job_id].topic == topic and not (state is State.DEAD and flow.cancelled):
                    flow.phase[job_id] = Phase.GONE
        for job_id in self.lines.named(state.value, (topic,)):
            del self.lines.entries[job_id]
            if job_id in self.flow_of:
                self.flows[self.flow_of[job_id]].phase[job_id] = Phase.GONE
        if state is State.DEAD:
            self.letters = {each for each in self.letters if self.sent[each].topic != topic}
        self.operator.purge(topic, state)
        for flow_id in self.flows:
            self.follow(flow_id)

    def _cancel(self, flow_id: str, *, finale: bool = False) -> None:
        if self.operator.cancel_flow(flow_id, finale=finale):
            self._cancelled(flow_id, finale=finale)

    def _cancelled(self, flow_id: str, *, finale: bool) -> None:
        flow = self.flows[flow_id]
        flow.keeps_finale = finale and flow_id not in self.open and (flow.keeps_finale or not flow.cancelled)
        flow.cancelled = flow.closed = True
        for job_id in flow.named(Phase.ACTIVE):
            if flow.barred(job_id) and job_id not in self.reserved():
                flow.phase[job_id] = Phase.GONE
        if flow_id in self.open:
            self.lost.add(flow_id)
        self.follow(flow_id)

    def _retry(self, flow_id: str) -> None:
        flow = self.flows[flow_id]
        dead = flow.can_be_retried()
        assert self.operator.retry_flow(flow_id) == len(dead)
        for job_id in dead:
            flow.phase[job_id] = Phase.WAITING
        self.follow(flow_id, dead)

    def _trim(self) -> None:
        """Let the time of open flows run out, then that of all dead letters."""
        self._keep_house()
        self.rig.advance(25_000.0)
        self._keep_house()
        for flow_id, parts in self.open.items():
            if parts and flow_id not in self.lost:
                self._cancelled(flow_id, finale=False)
        self.rig.advance(30_000.0)
        self._keep_house()
        self.letters.clear()
        for flow_id, flow in self.flows.items():
            for job_id in [] if flow.cancelled else flow.named(Phase.DEAD):
                flow.phase[job_id] = Phase.GONE
            self.follow(flow_id)

    # -- the end -----------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Run all that is ready: it must be exactly what the definitions say, and leave no slot behind."""
        if not sys.exc_info()[0]:
            self._run_all()
        for worker in WORKERS:
            self.operator.release_owner(f"{self.prefix}-{worker}", (), b"")
        for flow_id in self.flows:
            self.operator.cancel_flow(flow_id)
        for topic in self.topics:
            self.operator.resume(topic)
            for state in (State.READY, State.SCHEDULED, State.DEAD):
                self.operator.purge(topic, state)
        self.rig.close()

    def _run_all(self) -> None:
        for worker in WORKERS:
            self.owner_ends(worker, "release", 0)
        self._open_limits()
        for _ in range(self.number + 1):
            if self.rig.clock:
                self.rig.advance(20.0)
                self._keep_house()
            ready = self.lines.named("ready")
            self.reserve(WORKERS[0], 1000, True, None)
            assert self.held[WORKERS[0]].keys() == ready
            if not ready:
                break
            self._run_held(WORKERS[0])
        self.counts_agree()
        self.flows_agree()
        self.no_slot_is_counted_twice_or_lost()

    def _open_limits(self) -> None:
        for topic in self.topics:
            self.operator.resume(topic)
        self.lines.paused.clear()
        if not self.rig.has("limits", "fairness"):
            return
        for limit in sorted(self.lines.overrides):
            self.operator.override_limit(limit, None)
            self.lines.reset(limit)
        definitions = dict.fromkeys(self.named("abr"), Limit(concurrency=1000))
        topics = dict.fromkeys(self.topics, Lines())
        self.operator.define_limits(definitions, topics)
        self.lines.defined |= definitions
        for topic in self.topics:
            self.lines.set_rules(topic, Lines())


__all__ = ["Togetherness"]
