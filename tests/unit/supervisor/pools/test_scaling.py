"""The scaling policy by itself: its decisions, and its results under waves of load on workers that take time to boot."""

import random
from collections import deque

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jobs_core.supervisor.pools.scaling import PoolScaler


def ask(scaler, now, **facts):
    known = {"workers": 4, "busy": 4, "idle_since": [], "ready": 0, "oldest_age": None, "done_rate": 10.0, "starting": 0}
    return scaler.decide(now, **{**known, **facts})


# -- growing ---------------------------------------------------------------------------------------


def test_it_grows_by_half_while_the_oldest_job_is_too_old():
    scaler, workers = PoolScaler(1, 20, 3.0), 1
    seen = []
    for second in range(10):
        change = ask(scaler, second, workers=workers, busy=workers, ready=100, oldest_age=3.1, done_rate=1000)
        workers += change
        seen.append(workers)
    assert seen == [2, 3, 4, 6, 9, 13, 19, 20, 20, 20]


def test_an_age_within_bounds_adds_no_worker():
    scaler = PoolScaler(1, 20, 3.0)
    assert [ask(scaler, second, ready=5, oldest_age=2.9) for second in range(10)] == [0] * 10


def test_it_grows_when_the_backlog_is_deeper_than_is_cleared_in_that_time():
    scaler = PoolScaler(1, 20, 3.0)
    assert ask(scaler, 0, ready=31, done_rate=10) == 0  # it may have arrived just now
    assert ask(scaler, 1, ready=31, done_rate=10) == 2
    scaler = PoolScaler(1, 20, 3.0)
    assert [ask(scaler, second, ready=30, done_rate=10) for second in range(5)] == [0] * 5


def test_it_waits_until_the_last_step_serves():
    scaler = PoolScaler(1, 20, 3.0)
    assert ask(scaler, 0, ready=9, oldest_age=5) == 2
    assert [ask(scaler, second, workers=6, starting=1, ready=9, oldest_age=9) for second in range(1, 30)] == [0] * 29
    assert ask(scaler, 30, workers=6, busy=6, ready=9, oldest_age=9) == 3


def test_it_takes_one_step_a_second():
    scaler = PoolScaler(1, 20, 3.0)
    changes = [ask(scaler, tick / 10, ready=9, oldest_age=5) for tick in range(31)]
    assert sum(change != 0 for change in changes) == 4


def test_idle_workers_are_reason_enough_not_to_grow():
    scaler = PoolScaler(1, 20, 3.0)
    assert ask(scaler, 10, busy=3, idle_since=[8.0], ready=9, oldest_age=5) == 0
    assert ask(scaler, 11, busy=3, idle_since=[10.9], ready=9, oldest_age=5) == 2  # between two jobs


# -- shrinking -------------------------------------------------------------------------------------


def idle(scaler, second, since, workers, busy=0):
    return ask(scaler, second, workers=workers, busy=busy, idle_since=[since] * (workers - busy), done_rate=0)


def test_it_shrinks_step_by_step_to_its_least():
    scaler, workers, seen = PoolScaler(2, 20, 3.0), 12, []
    for second in range(20):
        workers += idle(scaler, second, 0, workers)
        seen.append(workers)
    assert seen[:10] == [12] * 10
    assert seen[10:] == [8, 6, 4, 3, 2, 2, 2, 2, 2, 2]


def test_it_never_asks_a_busy_worker_or_one_just_idle():
    scaler = PoolScaler(1, 20, 3.0, 10.0)
    for second in range(30):
        assert ask(scaler, second, workers=4, busy=1, idle_since=[second - 9.9] * 3, done_rate=0) == 0
    scaler = PoolScaler(1, 20, 3.0, 10.0)
    assert [idle(scaler, second, 0, 4, busy=4) for second in range(30)] == [0] * 30


def test_it_keeps_the_workers_that_were_recently_in_use():
    scaler = PoolScaler(1, 20, 3.0)
    for second in range(30):
        assert idle(scaler, second, -100, 6, busy=6 if second % 7 == 0 else 2) == 0


def test_it_keeps_some_to_spare():
    scaler, workers = PoolScaler(1, 20, 3.0), 12
    for second in range(60):
        workers += idle(scaler, second, -100, workers, busy=5)
    assert workers == 6


def test_shrink_after_is_configurable():
    scaler = PoolScaler(1, 20, 3.0, 2.0)
    assert [idle(scaler, second, 0, 6) for second in range(3)] == [0, 0, -2]


def test_a_fixed_pool_stays_as_it_is():
    scaler = PoolScaler(4, 4, 3.0)
    assert {ask(scaler, second, ready=10**6, oldest_age=10**6) for second in range(30)} == {0}
    assert {idle(scaler, second, 0, 4) for second in range(30, 60)} == {0}


COUNT = st.integers(0, 50)


@given(
    st.integers(0, 10),
    st.integers(1, 40),
    st.lists(
        st.tuples(st.floats(0.01, 5), COUNT, COUNT, COUNT, st.none() | st.floats(0, 100), st.floats(0, 1000)), max_size=60
    ),
)
def test_for_any_input_it_stays_within_its_bounds_and_spares_busy_workers(least, more, looks):
    most, now = least + more, 0.0
    scaler, workers = PoolScaler(least, most, 3.0), least
    for seconds, busy, idle, ready, age, rate in looks:
        now += seconds
        busy = min(busy, workers)
        idle = min(idle, workers - busy)
        change = ask(
            scaler, now, workers=workers, busy=busy, idle_since=[now - 20] * idle, ready=ready, oldest_age=age, done_rate=rate,
            starting=workers - busy - idle,
        )  # fmt: skip
        assert least <= workers + change <= most
        assert change >= -idle
        assert change <= max(1, workers // 2)
        workers += change


# -- waves -----------------------------------------------------------------------------------------


class Plant:
    """Workers on one queue, in steps of a fiftieth of a second; examined once a second as the supervisor does."""

    STEP = 0.02

    def __init__(self, least, most, *, boot, job, order, seed, steady=True, grow_age=3.0, shrink_after=10.0):
        self.scaler = PoolScaler(least, most, grow_age, shrink_after)
        self.random = random.Random(seed)
        self.boot, self.job, self.order = boot, job, order
        self.now, self.queue = 0.0, deque()
        self.workers = [self.worker(0.0) for _ in range(least)]
        self.done = self.done_before = 0
        self.steady = steady  # or jobs arrive at random
        self.owed = 1.0
        self.changes = []  # (time, change)
        self.looks = 0
        self.peak = 0.0  # oldest age

    def worker(self, ready_at):
        return {"ready_at": ready_at, "busy_until": 0.0, "idle_since": None}

    def run(self, seconds, rate):
        """Let time pass at this many jobs a second."""
        end = self.now + seconds
        while self.now < end:
            self.now += self.STEP
            self.owed += rate * self.STEP
            while self.owed >= 1:
                self.queue.append(self.now)
                self.owed -= 1 if self.steady else self.random.expovariate(1.0)
            self.work()
            if self.now >= self.looks:
                self.looks += 1
                self.look()

    def work(self):
        free = [one for one in self.workers if one["ready_at"] <= self.now]
        if self.order == "random":
            self.random.shuffle(free)
        elif self.order == "last":
            free.reverse()
        for worker in free:
            budget = self.STEP  # short jobs: many in one step
            while worker["busy_until"] <= self.now and self.queue and budget > 0:
                self.queue.popleft()
                self.done += 1
                budget -= self.job
                worker["busy_until"] = self.now + max(0.0, -budget) + min(self.job, self.STEP)

    def look(self):
        serving = [one for one in self.workers if one["ready_at"] <= self.now]
        busy = [one for one in serving if one["busy_until"] > self.now]
        for one in serving:
            one["idle_since"] = None if one in busy else (one["idle_since"] or self.now)
        age = self.now - self.queue[0] if self.queue else None
        self.peak = max(self.peak, age or 0.0)
        change = self.scaler.decide(
            self.now,
            workers=len(self.workers),
            busy=len(busy),
            idle_since=[one["idle_since"] for one in serving if one["idle_since"] is not None],
            ready=len(self.queue),
            oldest_age=age,
            done_rate=self.done - self.done_before,
            starting=len(self.workers) - len(serving),
        )
        self.done_before = self.done
        if change > 0:
            self.workers += [self.worker(self.now + self.boot) for _ in range(change)]
        for _ in range(-change):
            self.workers.remove(next(one for one in self.workers if one["idle_since"] is not None))
        if change:
            self.changes.append((self.now, change))

    def turns(self, since):
        """Return how often the direction has changed since a time, including the last change before."""
        signs = [change > 0 for _, change in self.changes]
        first = sum(at <= since for at, _ in self.changes)
        return sum(one != other for one, other in zip(signs[max(0, first - 1) :], signs[max(1, first) :], strict=False))


@settings(max_examples=30, deadline=None)
@given(
    least=st.integers(1, 4),
    more=st.integers(1, 16),
    boot=st.sampled_from([0.02, 0.1, 1.0, 4.0]),
    job=st.sampled_from([0.001, 0.01, 0.05, 0.2, 1.0, 5.0]),
    load=st.floats(0.1, 1.5),
    rest=st.sampled_from([0.0, 0.0, 0.05, 0.3]),
    length=st.sampled_from([30, 60, 120]),
    order=st.sampled_from(["first", "last", "random"]),
    steady=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_square_wave_turns_it_at_most_twice_an_edge(least, more, boot, job, load, rest, length, order, steady, seed):
    assume(steady or job <= 0.2)  # few long jobs at random times are no square wave: the pool follows them
    plant = Plant(least, least + more, boot=boot, job=job, order=order, seed=seed, steady=steady)
    high = min(load * (least + more) / job, 3000)
    for _ in range(2):
        for rate in (high, high * rest):
            edge = plant.now
            plant.run(length, rate)
            assert plant.turns(edge) <= 2, plant.changes


@pytest.mark.parametrize("boot", [0.1, 2.0])
def test_a_wave_is_met_and_let_go(boot):
    plant = Plant(1, 16, boot=boot, job=0.5, order="first", seed=1)
    plant.run(60, 20)  # the work of ten workers
    assert len(plant.workers) >= 10
    assert not plant.queue
    plant.run(60, 0)
    assert len(plant.workers) == 1
    assert plant.peak < 20


def test_pools_do_not_starve_each_other():
    """Each has its own scaler: one that is at its maximum under endless load takes nothing from the other."""
    greedy = Plant(1, 50, boot=0.1, job=1.0, order="first", seed=1)
    other = Plant(1, 10, boot=0.1, job=0.5, order="first", seed=1)
    for _ in range(30):
        greedy.run(1, 500)
        other.run(1, 12)
    assert len(greedy.workers) == 50
    assert len(other.workers) >= 6
    assert not other.queue or other.now - other.queue[0] < 3
