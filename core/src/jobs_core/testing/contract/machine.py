"""A Hypothesis state machine that makes the same calls to the backend and to the memory model.

If the backend has a movable clock and all features of the model, every answer must equal the model's. Otherwise, the machine
only tracks ids: in the end, exactly the jobs that were pushed and have not ended must be delivered.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from msgspec import UNSET
from msgspec.structs import replace

from ...backends.base import ENDS, FEATURES, Answer, Backend, Checkpoint, Delivery, Outcome, Outgoing, Settlement, State
from ...backends.memory import MemoryBackend, forget
from ...errors import OwnerLost
from ...ids import new_token
from ...message import UniqueKey
from .letters import grouped_letters
from .rig import ERROR, Rig, RigCase

TOPICS = ["a", "b", "c"]
OWNERS = ["one", "two", "three"]
STEPS = int(os.environ.get("JOBS_CONTRACT_STEPS", "40"))
EXAMPLES = int(os.environ.get("JOBS_CONTRACT_EXAMPLES", "60"))
SHRINKS = bool(os.environ.get("JOBS_CONTRACT_SHRINK"))
"""True to shrink a failing example to the shortest one before it is shown.

Each step replays a whole example on a real broker, so this takes minutes (Hypothesis stops after five). If False, the
failure is shown as it was found.
"""

topics_in_order = st.lists(st.sampled_from(TOPICS), min_size=1, max_size=3, unique=True)
uniques = st.none() | st.builds(
    UniqueKey,
    st.sampled_from(["k1", "k2"]),
    st.sampled_from(["queued", "done", 40.0]),
    st.sampled_from(["drop", "replace"]),
    st.sampled_from([UNSET, 20.0]),
)
_FACTS = ("state", "topic", "attempt", "redeliveries", "crashes", "deferrals", "reason", "owner", "cursor")


class Machine(RigCase):
    """Run the state machine as one case."""

    examples = EXAMPLES
    """Number of examples to try; a subclass for a slow backend may reduce it."""

    loses_answers = False
    """True if answers may be lost and calls repeated. `housekeep`, without a request id, then returns the second answer."""

    def test_the_backend_behaves_like_the_model(self, rig: Rig) -> None:
        if not SHRINKS:
            print(
                "If this fails: the steps below are as they were found; JOBS_CONTRACT_SHRINK=1 takes minutes to shorten them."
            )
        exact = rig.clock is not None and rig.has(*FEATURES - {"multiprocess", "prefix", "known_ids"})
        machine = partial(Exact, rig, self.loses_answers) if exact else partial(Account, rig)
        run_state_machine_as_test(
            machine,  # type: ignore[arg-type]  # a function may take the place of the class, says its documentation
            settings=settings(
                max_examples=self.examples if exact else max(5, self.examples // 6),
                stateful_step_count=STEPS if exact else STEPS // 2,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
                print_blob=True,
                phases=[Phase.generate, Phase.shrink] if SHRINKS else [Phase.generate],
            ),
        )


class Exact(RuleBasedStateMachine):
    """The machine that compares each answer with the model's; each example first empties the store of the previous one."""

    def __init__(self, rig: Rig, loses_answers: bool) -> None:
        super().__init__()
        self.rig, self.loses_answers = rig, loses_answers
        self.number = 0
        self.held: dict[str, list[tuple[Delivery, Delivery]]] = {owner: [] for owner in OWNERS}
        self.last_reserve: dict[str, tuple[list[str], int, str]] = {}
        self.last_settle: dict[str, tuple[list[tuple[Settlement, Settlement]], str]] = {}
        self.last_push: tuple[list[Outgoing], str] | None = None
        self.ids: list[str] = []
        self.subjects: dict[str, Backend] = {}
        self.models: dict[str, Backend] = {}

    @initialize()
    def start(self) -> None:
        forget("memory://contract-model")
        self.clear()
        for owner in OWNERS:
            self.open(owner)
        self.subject, self.model = self.rig.producer(), MemoryBackend("memory://contract-model", self.rig.options())
        self.model.open(None)

    def clear(self) -> None:
        """Empty the store, because all examples use the same rig."""
        cleaner = self.rig.producer()
        assert self.rig.clock is not None
        self.rig.clock.time += 10 * 86400.0
        for owner in OWNERS:
            cleaner.release_owner(owner, (), b"")
        for topic in (*TOPICS, *cleaner.topics()):
            cleaner.resume(topic)
            for state in (State.READY, State.SCHEDULED, State.DEAD):
                cleaner.purge(topic, state)
        while cleaner.housekeep(1000).more:
            pass
        cleaner.close()

    def open(self, owner: str) -> None:
        self.subjects[owner] = self.rig.worker(owner)
        self.models[owner] = MemoryBackend("memory://contract-model", self.rig.options())
        self.models[owner].open(owner)

    def both(self, owner: str, call: Callable[[Backend], Any]) -> tuple[Any, Any]:
        """Return the answers of the backend and of the model; if both raise OwnerLost, open the owner again."""
        answers = []
        for backend in (self.subjects[owner], self.models[owner]):
            try:
                answers.append(call(backend))
            except OwnerLost:
                answers.append(OwnerLost)
        assert (answers[0] is OwnerLost) == (answers[1] is OwnerLost), answers
        if answers[0] is OwnerLost:
            self.held[owner] = []
            self.last_reserve.pop(owner, None)
            self.subjects[owner].close()
            self.open(owner)
            return [], []
        return answers[0], answers[1]

    @rule(
        jobs=st.lists(
            st.tuples(st.sampled_from(TOPICS), st.integers(0, 9), st.sampled_from([0.0, 0.0, 5.0, 50.0]), uniques),
            min_size=1,
            max_size=4,
        )
    )
    def push(self, jobs: list[tuple[str, int, float, UniqueKey | None]]) -> None:
        outgoing = []
        for topic, priority, delay, unique in jobs:
            self.number += 1
            job_id = f"job-{self.number}"
            outgoing.append(Outgoing(job_id, topic, job_id.encode(), priority, delay, unique))
            self.ids.append(job_id)
        self.last_push = outgoing, new_token()
        self.repeat_push()

    @precondition(lambda self: self.last_push)
    @rule()
    def repeat_push(self) -> None:
        assert self.last_push
        outgoing, request = self.last_push
        assert dict(self.subject.push(outgoing, request)) == dict(self.model.push(outgoing, request))

    @rule(owner=st.sampled_from(OWNERS), topics=topics_in_order, limit=st.integers(1, 5))
    def reserve(self, owner: str, topics: list[str], limit: int) -> None:
        request = new_token()
        subject, model = self.both(owner, lambda backend: backend.reserve(topics, limit, request))
        assert _shape(subject) == _shape(model)
        self.held[owner] += zip(subject, model, strict=True)
        self.last_reserve[owner] = topics, limit, request

    @precondition(lambda self: self.last_reserve)
    @rule(data=st.data())
    def repeat_reserve(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(sorted(self.last_reserve)))
        topics, limit, request = self.last_reserve[owner]
        subject, model = self.both(owner, lambda backend: backend.reserve(topics, limit, request))
        assert _shape(subject) == _shape(model)

    @rule(
        owner=st.sampled_from(OWNERS),
        count=st.integers(1, 4),
        outcome=st.sampled_from(list(Outcome)),
        after=st.sampled_from([0.0, 5.0]),
        keeps=st.booleans(),
        cursor=st.none() | st.sampled_from([b"", b"place"]),
        follows=st.booleans(),
    )
    def settle(
        self, owner: str, count: int, outcome: Outcome, after: float, keeps: bool, cursor: bytes | None, follows: bool
    ) -> None:
        pairs, self.held[owner] = self.held[owner][:count], self.held[owner][count:]
        followups: tuple[Outgoing, ...] = ()
        if follows and outcome in ENDS and pairs:
            self.number += 1
            followups = (Outgoing(f"job-{self.number}", "a", b"follow-up"),)
            self.ids.append(f"job-{self.number}")
        batch = []
        for n, (subject, model) in enumerate(pairs):
            fields: dict[str, Any] = {
                "after": after, "reason": "why", "error": ERROR, "result": b"1" if keeps else None,
                "result_ttl": 20.0, "followups": followups if n == 0 else (),
                "cursor": cursor if self.rig.has("checkpoints") else None,
            }  # fmt: skip
            ours = Settlement(subject.id, subject.token, outcome, **fields)
            batch.append((ours, Settlement(model.id, model.token, outcome, **fields)))
        self.last_settle[owner] = batch, new_token()
        self.send(owner)

    @precondition(lambda self: self.last_settle)
    @rule(data=st.data())
    def repeat_settle(self, data: st.DataObject) -> None:
        self.send(data.draw(st.sampled_from(sorted(self.last_settle))))

    def send(self, owner: str) -> None:
        batch, request = self.last_settle[owner]
        subject = self.subjects[owner].settle([pair[0] for pair in batch], request)
        model = self.models[owner].settle([pair[1] for pair in batch], request)
        assert subject == model

    @precondition(lambda self: self.rig.has("checkpoints"))
    @rule(owner=st.sampled_from(OWNERS), count=st.integers(1, 3))
    def checkpoint(self, owner: str, count: int) -> None:
        self.number += 1
        cursor, pairs = b"%d" % self.number, self.held[owner][:count]
        self.subjects[owner].checkpoint([Checkpoint(subject.id, subject.token, cursor) for subject, _ in pairs])
        self.models[owner].checkpoint([Checkpoint(model.id, model.token, cursor) for _, model in pairs])

    @rule(owner=st.sampled_from(OWNERS))
    def heartbeat(self, owner: str) -> None:
        subject, model = self.both(owner, lambda backend: backend.heartbeat())
        if subject:
            assert (sorted(subject.cancelled), sorted(subject.lost)) == (sorted(model.cancelled), sorted(model.lost))

    @rule(seconds=st.sampled_from([1.0, 9.0, 31.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        assert self.rig.clock
        self.rig.clock.time += seconds

    @rule()
    def housekeep(self) -> None:
        subject, model = self.subject.housekeep(1000), self.model.housekeep(1000)
        if not self.loses_answers:  # each backend decides when it makes due jobs ready
            assert subject.owners_released == model.owners_released

    @rule(owner=st.sampled_from(OWNERS), started=st.integers(0, 3))
    def release_owner(self, owner: str, started: int) -> None:
        ids = [subject.id for subject, _ in self.held[owner][:started]]
        answers = [backend.release_owner(owner, ids, ERROR) for backend in (self.subject, self.model)]
        assert answers[0] == answers[1]

    @rule(topic=st.sampled_from(TOPICS), paused=st.booleans())
    def pause(self, topic: str, paused: bool) -> None:
        for backend in (self.subject, self.model):
            (backend.pause if paused else backend.resume)(topic)

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), verb=st.sampled_from(["cancel", "requeue", "discard", "drop"]))
    def operate(self, data: st.DataObject, verb: str) -> None:
        job_id = data.draw(st.sampled_from(self.ids))
        calls: dict[str, Callable[[Backend], Any]] = {
            "cancel": lambda backend: backend.cancel(job_id),
            "requeue": lambda backend: backend.requeue([job_id]),
            "discard": lambda backend: backend.discard([job_id], "not wanted"),
            "drop": lambda backend: backend.drop([job_id]),
        }
        assert calls[verb](self.subject) == calls[verb](self.model)

    @invariant()
    def nothing_differs(self) -> None:
        if not self.subjects:
            return
        counts = {topic: replace(each, pushed=None, refused=None) for topic, each in self.subject.counts(TOPICS).items()}
        assert counts == self.model.counts(TOPICS)
        grouped = grouped_letters(self.rig, self.subject, TOPICS)
        assert grouped in (None, {topic: each.dead for topic, each in counts.items()})
        for job_id in self.ids[-12:]:
            subject, model = self.subject.get(job_id), self.model.get(job_id)
            assert (subject is None) == (model is None), (job_id, subject, model)
            if subject and model:
                ended = model.state in (State.DONE, State.CANCELLED)  # backends need not keep every fact about ended jobs
                facts = ("state",) if ended else _FACTS
                ours, theirs = ([getattr(record, fact) for fact in facts] for record in (subject, model))
                assert ours == theirs, f"{job_id} {facts}: {ours} instead of {theirs}"
                assert ended or len(subject.errors) == len(model.errors)

    def teardown(self) -> None:
        self.rig.close()


def _shape(deliveries: list[Delivery]) -> list[tuple[Any, ...]]:
    """Return the facts of deliveries without the tokens, which differ between backends."""
    return [(d.id, d.topic, d.payload, d.attempt, d.redeliveries, d.crashes, d.deferrals, d.cursor) for d in deliveries]


class Account(RuleBasedStateMachine):
    """The machine that only tracks ids, for backends without strict order or without a movable clock."""

    def __init__(self, rig: Rig) -> None:
        super().__init__()
        self.rig = rig
        self.alive: set[str] = set()
        self.held: list[Delivery] = []
        self.worker = self.rig.worker(lease=3600.0)  # no step depends on how long the one before has taken
        self.producer = self.rig.producer()
        self.again: tuple[list[Settlement], str] | None = None
        self.rig.drain(self.worker, TOPICS)

    @rule(topic=st.sampled_from(TOPICS), count=st.integers(1, 5), priority=st.integers(0, 9))
    def push(self, topic: str, count: int, priority: int) -> None:
        self.alive |= set(self.rig.push_many(self.producer, count, topic=topic, priority=priority))

    @rule(topics=topics_in_order, limit=st.integers(1, 5))
    def reserve(self, topics: list[str], limit: int) -> None:
        taken = self.worker.reserve(topics, limit, self.rig.request())
        assert len(taken) <= limit
        for delivery in taken:
            assert delivery.id in self.alive
            assert delivery.topic in topics
            assert delivery.id not in {held.id for held in self.held}
        self.held += taken

    @rule(count=st.integers(1, 4), outcome=st.sampled_from(list(Outcome)))
    def settle(self, count: int, outcome: Outcome) -> None:
        batch, self.held = self.held[:count], self.held[count:]
        settlements = [Settlement(d.id, d.token, outcome, reason="why", error=ERROR) for d in batch]
        self.again = settlements, self.rig.request()
        assert self.worker.settle(*self.again) == [Answer.SETTLED] * len(batch)
        if outcome not in (Outcome.RETRY, Outcome.DEFER, Outcome.RELEASE):
            self.alive -= {delivery.id for delivery in batch}

    @precondition(lambda self: self.again)
    @rule()
    def repeat_settle(self) -> None:
        assert self.again
        assert Answer.SETTLED not in self.worker.settle(*self.again)

    @rule()
    def heartbeat(self) -> None:
        assert self.worker.heartbeat().lost == ()

    @rule()
    def housekeep(self) -> None:
        self.worker.heartbeat()
        self.worker.housekeep(100)

    def teardown(self) -> None:
        for delivery in self.held:
            self.rig.settle(self.worker, delivery, Outcome.RELEASE)
        seen: list[str] = []

        def complete() -> bool:
            self.worker.heartbeat()
            seen.extend(self.rig.drain(self.worker, TOPICS))
            return len(seen) >= len(self.alive)

        self.rig.until(complete)
        self.rig.close()
        assert sorted(seen) == sorted(self.alive)
