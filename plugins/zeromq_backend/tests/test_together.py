"""Requests that are processed together have the same results as one by one."""

from __future__ import annotations

import random

import msgspec
import pytest

from jobs_core.backends.base import Answer, BackendOptions, State
from jobs_core.ids import new_token
from jobs_zeromq import protocol as p
from jobs_zeromq.broker.batching import batches
from jobs_zeromq.broker.decoding import read
from jobs_zeromq.broker.peers import Peer
from jobs_zeromq.broker.store import Store
from jobs_zeromq.broker.transactions import Transactions

NOW = 1_700_000_000.0
PEER = Peer(p.Hello(), lambda: NOW)
TOPICS = ["a", "b"]


def asked(verb, sender=b"somebody", payloads=(), peer=PEER, **body):
    form = msgspec.json if verb is p.PUT else msgspec.msgpack
    return read(peer, sender, b"tag", verb, [form.encode(body), *payloads])


@pytest.fixture
def both(tmp_path):
    """Two `Transactions`, each on its own store."""
    stores = [
        Store(f"sqlite:///{name}.db?durability=process", BackendOptions(base_dir=tmp_path, clock=lambda: NOW), min_free=0)
        for name in "xy"
    ]
    for store in stores:
        store.open()
    yield [Transactions(store) for store in stores]
    for store in stores:
        store.close()


class Traffic:
    """Random requests of a few workers and producers."""

    def __init__(self, seed):
        self.dice = random.Random(seed)
        self.held = {f"worker-{n}": [] for n in range(4)}
        self.number = 0
        self.requests = ["p0"]

    def opening(self):
        return [asked(p.OPEN, owner=owner) for owner in self.held if owner != "worker-3"]  # lost owners

    def group(self):
        return [self.one() for _ in range(self.dice.randint(1, 12))]

    def one(self):
        self.number += 1
        owner, request = self.dice.choice(list(self.held)), f"{self.number}"
        kind = self.dice.choice(["push", "push", "put", "reserve", "reserve", "settle", "settle", "pause", "counts"])
        if kind in ("push", "put"):
            if self.dice.random() < 0.8:
                self.requests.append(f"p{self.number}")
            request = self.dice.choice(self.requests[-4:])  # at times an existing one
            if kind == "put":
                return asked(p.PUT, b"p", [b"{}"] * self.dice.randint(1, 3), topic="a", request=request)
            return asked(p.PUSH, b"%d" % self.dice.randint(0, 2), request=request, messages=[self.message() for _ in range(3)])
        if kind == "reserve":
            return asked(p.RESERVE, owner=owner, request=request, topics=self.topics(), limit=self.dice.randint(0, 4))
        if kind == "settle":
            return asked(p.SETTLE, owner=owner, request=request, settlements=self.settlements(owner))
        if kind == "pause":
            return asked(self.dice.choice([p.PAUSE, p.RESUME, p.RESUME]), topic="b", request=request)
        return asked(p.COUNTS, topics=TOPICS)

    def topics(self):
        return self.dice.choice([["a"], ["b"], ["a", "b"], ["b", "a"]])

    def message(self):
        known = self.dice.random() < 0.1
        job = f"job-{self.dice.randint(0, self.number) if known else self.number}-{self.dice.randint(0, 5)}"
        unique = {"key": self.dice.choice("kl"), "scope": "queued"} if self.dice.random() < 0.2 else None
        return {
            "id": job, "topic": self.dice.choice(TOPICS), "payload": b"x", "priority": self.dice.randint(0, 2),
            "delay": self.dice.choice([0.0, 0.0, 5.0]), "unique": unique,
        }  # fmt: skip

    def settlements(self, owner):
        held, self.held[owner] = self.held[owner], []
        if self.dice.random() < 0.2:
            held = held + [one for others in self.held.values() for one in others][:1]  # that of another owner
        outcomes = ["done"] if self.dice.random() < 0.7 else ["done", "retry", "dead", "release"]
        return [{"id": job, "token": token, "outcome": self.dice.choice(outcomes), "error": b"{}"} for job, token in held]

    def note(self, answers):
        for answer in answers:
            if answer.to.verb is p.RESERVE and answer.kind == p.OK:
                deliveries = p.RESERVE.decode_answer(answer.body)
                self.held[answer.to.request.owner] += [(one.id, one.token) for one in deliveries]


def shown(transactions):
    """Return the whole visible state of a store."""
    look = [
        asked(p.COUNTS, topics=TOPICS),
        *(asked(p.BROWSE, topic=t, state=state, limit=99) for t in TOPICS for state in SEEN),
    ]
    return [told(answer) for answer in transactions.serve(look)]


def told(answer):
    """Return what an answer says, but for how many jobs were pushed: a group adds them to the store's counts at other times."""
    if answer.to.verb is not p.COUNTS or answer.kind != p.OK:
        return answer.kind, answer.body
    counts = p.COUNTS.decode_answer(answer.body)
    return {topic: msgspec.structs.replace(count, pushed=None, refused=None) for topic, count in counts.items()}


SEEN = [State.READY.value, State.SCHEDULED.value, State.RESERVED.value, State.DEAD.value]


@pytest.mark.parametrize("seed", range(8))
def test_a_group_is_answered_as_if_each_had_come_alone(both, seed):
    together, alone = both
    traffic = Traffic(seed)
    for transactions in both:
        transactions.serve(traffic.opening())
    for _ in range(40):
        group = traffic.group()
        answers = together.serve(group)
        one_by_one = {id(one): answered for batch in batches(group) for one in batch for answered in alone.serve([one])}
        assert [told(answer) for answer in answers] == [told(one_by_one[id(one)]) for one in group]
        assert shown(together) == shown(alone)
        traffic.note(answers)
    assert together.figures.reserved == alone.figures.reserved > 20


def test_the_group_of_many_clients_takes_hardly_more_statements_than_that_of_one(both):
    transactions, _ = both
    owners = [f"worker-{n}" for n in range(32)]
    transactions.serve([asked(p.OPEN, owner=owner) for owner in owners])
    statements = []
    with transactions._store.reading() as db:
        db.set_trace_callback(lambda sql: statements.append(sql.split()[0]))

    def group(owners):
        statements.clear()
        count, held = len(owners), {}
        for batch in ("push", "reserve", "settle"):
            answers = transactions.serve([of_each(batch, owner, held) for owner in owners])
            assert [answer.kind for answer in answers] == [p.OK] * count
            if batch == "reserve":
                held = {answer.to.request.owner: p.RESERVE.decode_answer(answer.body) for answer in answers}
                assert [len(each) for each in held.values()] == [10] * count
            if batch == "settle":
                assert {state for answer in answers for state in p.SETTLE.decode_answer(answer.body)} == {Answer.SETTLED}
        return sum(sql in ("SELECT", "DELETE") for sql in statements)  # statements that run for many rows are traced for each

    def of_each(batch, owner, held):
        request = new_token()
        if batch == "push":
            messages = [{"id": f"{request}-{n}", "topic": "a", "payload": b"x"} for n in range(10)]
            return asked(p.PUSH, owner.encode(), request=request, messages=messages)
        if batch == "reserve":
            return asked(p.RESERVE, owner=owner, request=request, topics=["a"], limit=10)
        settlements = [{"id": one.id, "token": one.token, "outcome": "done"} for one in held[owner]]
        return asked(p.SETTLE, owner=owner, request=request, settlements=settlements)

    of_one, of_all = group(owners[:1]), group(owners)
    assert of_all - of_one <= 2 * 31  # each reserve looks where its share ends, and takes it


def test_a_push_delivers_its_jobs_to_a_waiting_worker_in_its_own_transaction(both):
    def takers(topics):
        return [asked(p.RESERVE, owner=owner, request="r", topics=[*topics], limit=2) for owner in ("worker", "nobody")]

    transactions = Transactions(both[0]._store, takers)
    transactions.serve([asked(p.OPEN, owner="worker")])
    (pushed,) = transactions.serve(
        [asked(p.PUSH, request="1", messages=[{"id": n, "topic": "a", "payload": b"x"} for n in "xyz"])]
    )
    assert (pushed.kind, transactions.figures.commits) == (p.OK, 2)
    handed, lost = transactions.reserved_for_waiting
    assert [one.id for one in p.RESERVE.decode_answer(handed.body)] == ["x", "y"]
    assert p.decode_refusal(lost.body).code == "owner_lost"


def test_a_waiting_worker_cannot_fail_the_push_of_another_client(both):
    def takers(topics):
        raise RuntimeError("no")

    transactions = Transactions(both[0]._store, takers)
    (pushed,) = transactions.serve([asked(p.PUSH, request="1", messages=[{"id": "x", "topic": "a", "payload": b"x"}])])
    assert (pushed.kind, transactions.figures.pushed, transactions.reserved_for_waiting) == (p.OK, 1, [])


def test_requests_of_one_owner_and_pushes_of_one_connection_keep_their_order():
    def settle(owner):
        return asked(p.SETTLE, owner=owner, request="s", settlements=[])

    def reserve(owner):
        return asked(p.RESERVE, owner=owner, request="r", topics=["a"], limit=1)

    def push(sender, request):
        return asked(p.PUSH, sender, request=request, messages=[])

    one, other = settle("one"), settle("other")
    first, second, third = push(b"x", "1"), push(b"y", "2"), push(b"x", "3")
    then, others, again, last = reserve("one"), reserve("other"), settle("one"), reserve("one")
    beat, after = asked(p.HEARTBEAT_OF, owner="one"), push(b"x", "4")
    assert list(batches([one, first, then, second, other, others, third, again, last, beat, after])) == [
        [first, second, third],
        [one, other],
        [then, others],
        [again],
        [last],
        [beat],
        [after],
    ]


def test_clients_of_different_configurations_are_not_done_together():
    other = Peer(p.Hello(lease=5.0), lambda: NOW)
    reserves = [
        asked(p.RESERVE, owner=str(n), request="r", topics=["a"], limit=1, peer=peer)
        for n, peer in enumerate([PEER, Peer(p.Hello(), lambda: NOW), other])
    ]
    assert list(batches(reserves)) == [reserves[:2], reserves[2:]]
