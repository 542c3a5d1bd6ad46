"""The reservations are bookkeeping: they return everything that is to be done, and each job is in one place."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs_core.backends.base import Answer, Delivery, Outcome
from jobs_core.backends.memory import MemoryBackend
from jobs_core.errors import BackendUnavailable
from jobs_core.message import Message
from jobs_core.options import Backoff, Policy
from jobs_core.runs.run import Run
from jobs_core.worker.reservations import Reservations
from jobs_core.worker.run_queue import RunQueue
from jobs_core.worker.settlements import Settlements

SLOTS = 4


class Slots:
    """An executor that runs nothing: it has slots, and a queue."""

    concurrency = SLOTS

    def __init__(self):
        self.run_queue = RunQueue(lambda: None)
        self.running = []

    def started(self):
        return list(self.running)


def made(number, kind="plain"):
    delivery = Delivery(str(number), "t", b"", number, 0, 2 if kind == "suspect" else 0, 0, 0, 0.0, 0.0)
    policy = Policy(3, None, False, Backoff(), "early" if kind == "early" else "late", 60.0)
    return Run(delivery, Message(v=1, topic="t", job="f"), None, policy, [], {})


KINDS = st.lists(st.sampled_from(["plain", "plain", "early", "suspect"]), max_size=30)


@given(KINDS, st.booleans(), st.integers(0, 30))
def test_every_job_is_started_or_returned_once_whatever_it_is(kinds, watched, begun):
    executor = Slots()
    reservations = Reservations(executor, watched=watched)
    runs = [made(number, kind) for number, kind in enumerate(kinds)]
    started, endings = reservations.take(runs, 0.0)
    endings += reservations.admit(100.0)
    early = reservations.early(0)
    started += reservations.admitted(100.0)
    started += reservations.start(early, 100.0)
    executor.run_queue.pending.extend(started)
    executor.running = [executor.run_queue.pending.popleft() for _ in range(min(begun, len(started), SLOTS))]
    endings += reservations.release_unstarted()
    left = [*executor.running, *executor.run_queue.pending]
    released = [run for _, run in endings]
    assert sorted(run.id for run in [*left, *released]) == sorted(run.id for run in runs)
    assert set(reservations.runs) == {run.id for run in left}
    assert all(settlement.outcome in (Outcome.RELEASE, Outcome.DEFER) for settlement, _ in endings)
    assert not {run.id for run in early} & {run.id for run in released}, "what is acknowledged runs here, or never"
    assert reservations.release_unstarted() == []


@given(KINDS)
def test_no_more_jobs_are_acknowledged_early_than_there_are_slots(kinds):
    executor = Slots()
    reservations = Reservations(executor, watched=True)
    reservations.take([made(number, kind) for number, kind in enumerate(kinds)], 0.0)
    reservations.admit(100.0)
    early = reservations.early(0)
    reservations.admitted(100.0)
    assert len(early) <= max(0, SLOTS - len(reservations.runs))
    assert reservations.early(SLOTS) == []


class Trouble:
    """A backend that does not answer every second time; it knows what it was asked."""

    features = MemoryBackend.features

    def __init__(self):
        self.asked = deque()
        self.answers = 0

    def settle(self, settlements, request):
        self.asked.append((request, [each.id for each in settlements]))
        if len(self.asked) % 2:
            raise BackendUnavailable("away")
        self.answers += 1
        return [Answer.SETTLED] * len(settlements)


def test_a_batch_without_an_answer_is_sent_again_unchanged_though_more_came_meanwhile():
    backend = Trouble()
    settlements = Settlements(backend)
    for number in range(3):
        settlements.acknowledge([made(number)])
        with pytest.raises(BackendUnavailable):
            settlements.send()
        settlements.acknowledge([made(number + 10)])
        with pytest.raises(BackendUnavailable):
            settlements.send()
        settlements.send()
    first = [asked for asked in backend.asked if asked[1] == ["0"]]
    assert len(first) == 2
    assert first[0] == first[1]
    assert settlements.unsent == []
    assert [run.id for run in settlements.acknowledged] == ["0", "10", "1", "11", "2", "12"]
    sent = [asked for number, asked in enumerate(backend.asked) if number % 2]
    assert len({request for request, _ in sent}) == len(sent), "each batch has a request id of its own"


def test_admitted_suspects_start_even_if_the_release_of_the_others_had_to_be_repeated(memory_suspects):
    assert memory_suspects() == [0, 1, 2, 3, 4, 5]


@pytest.fixture
def memory_suspects(app, registry, monkeypatch):
    """Run suspects in an unsupervised worker whose backend does not answer the first settlement; return what ran."""
    from jobs_core import job
    from jobs_core.config import Pool
    from jobs_core.worker.main import Worker

    ran = []
    suspect = job(registry=registry, name="suspect")(lambda number: ran.append(number))
    suspect.enqueue_many([(number,) for number in range(6)])
    dead = app.new_backend()
    for owner in ("dead", "dead+1"):
        dead.open(owner)
        held = {delivery.id for delivery in dead.reserve(["default"], 200, "r")}
        dead.release_owner(owner, held, b"")
    dead.close()

    class Away(MemoryBackend):
        failed = False

        def settle(self, settlements, request):
            if not self.failed:
                self.failed = True
                raise BackendUnavailable("away")
            return super().settle(settlements, request)

    new_backend = app.new_backend
    monkeypatch.setattr(app, "new_backend", lambda: Away(app.backend_url, new_backend()._options))

    def run():
        Worker(app, "p", Pool(mode="threads", concurrency=6), None, drain=True).run()
        return sorted(ran)

    return run
