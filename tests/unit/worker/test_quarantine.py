"""Suspicion: the job that kills its workers is found, and no other is charged for it."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs_core import config, job
from jobs_core.ids import new_token
from jobs_core.runs.run import Run
from jobs_core.scoreboard.reader import RunEntry
from jobs_core.scoreboard.writer import Scoreboard
from jobs_core.supervisor.housekeeper.repair import charged
from jobs_core.worker import quarantine as quarantine_module
from jobs_core.worker import reservations
from jobs_core.worker.isolation import Isolation
from jobs_core.worker.main import Worker
from jobs_core.worker.quarantine import LOOK_AGAIN, PAUSE, SOLITUDE, SUSPECT, Quarantine
from jobs_core.worker.settings import Listener

from ...support.project import until
from .test_parts import made

MAX_REDELIVERIES = 3


def watched(concurrency: int, path=None) -> Quarantine:
    return Quarantine(concurrency, Isolation(path), watched=True)


def alone(concurrency: int) -> Quarantine:
    return Quarantine(concurrency, Isolation(), watched=False)


# -- who is a suspect ------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 2, 200, 5000])
@pytest.mark.parametrize("quarantine", [watched, alone])
@pytest.mark.parametrize("deaths", range(5))
def test_a_first_death_is_forgiven_and_a_second_is_not(quarantine, concurrency, deaths):
    suspected = quarantine(concurrency).concerns(made(redeliveries=deaths))
    assert suspected == (deaths >= SUSPECT)


def test_groups_shrink_by_sixteen_with_every_death():
    assert [watched(5000).limit(deaths) for deaths in (2, 3, 4, 5, 9)] == [313, 20, 2, 1, 1]
    assert [watched(8).limit(deaths) for deaths in (2, 3)] == [1, 1]


def entry(job_id: str, deaths: int = 0) -> RunEntry:
    return RunEntry(0, job_id, "j", "t", 0.0, 0.0, deaths)


@pytest.mark.parametrize(
    ("running", "culprit", "held_against"),
    [
        ({}, "", []),
        ({"a": 0, "b": 1}, "", ["a", "b"]),
        ({"a": 0, "b": 2, "c": 1}, "", ["b"]),
        ({"a": 3, "b": 2, "c": 1}, "", ["a", "b"]),
        ({"a": 3, "b": 0}, "b", ["b"]),
    ],
)
def test_a_death_is_held_against_the_suspects_among_those_that_ran(running, culprit, held_against):
    assert charged([entry(job_id, deaths) for job_id, deaths in running.items()], culprit) == held_against


# -- when suspects start ---------------------------------------------------------------------------


def test_suspects_start_after_a_pause_the_worst_first_and_few_together():
    quarantine = watched(64)
    twice = [made(f"a{n}", redeliveries=2) for n in range(6)]
    thrice = [made(f"b{n}", redeliveries=3) for n in range(2)]
    for run in (*twice, *thrice):
        quarantine.add(run, 10.0)
    assert quarantine.admit(10.0) == []
    assert quarantine.next(10.0) == 10.0 + PAUSE
    assert quarantine.admit(10.0 + PAUSE) == twice[:4]
    assert quarantine.admit(10.0 + 2 * PAUSE) == [], "one of three deaths runs with no other"
    quarantine.ended(twice[:4])
    assert quarantine.admit(10.0 + 2 * PAUSE) == thrice[:1]
    quarantine.ended(thrice[:1])
    assert quarantine.admit(10.0 + 2 * PAUSE) == thrice[1:]
    quarantine.ended(thrice[1:])
    assert quarantine.admit(20.0) == twice[4:]
    assert not quarantine
    assert quarantine.take_back() == []


def test_a_suspect_is_pausing_until_it_starts_or_has_been_refused_once(tmp_path):
    for refused in (False, True):
        path = tmp_path / "missing" / "x" if not refused else None
        quarantine = watched(1, path)
        assert not quarantine.pausing(10.0)
        quarantine.add(made("a", redeliveries=2), 10.0)
        assert quarantine.pausing(10.0)
        quarantine.running = {"another": made("another", redeliveries=2)} if refused else {}
        assert bool(quarantine.admit(10.0 + PAUSE)) != refused
        assert not quarantine.pausing(10.0 + PAUSE)


def test_nothing_is_closed_for_suspects_except_briefly_when_unsupervised():
    for quarantine in (watched(8), alone(8)):
        quarantine.add(made("a", redeliveries=2), 0.0)
        (run,) = quarantine.admit(1.0)
        assert quarantine.alone(1.0) == (not quarantine.watched)
        assert not quarantine.alone(1.0 + SOLITUDE)
        quarantine.ended([run])
        assert not quarantine.alone(1.0)


def test_one_worker_of_a_pool_runs_suspects_at_a_time_until_it_ends(tmp_path):
    holder = (
        "import sys, pathlib; from jobs_core.worker.isolation import Isolation\n"
        "isolation = Isolation(pathlib.Path(sys.argv[1])); print(isolation.enter(), flush=True); sys.stdin.read()"
    )
    path = tmp_path / "default.suspects"
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "True\n"
    quarantine = watched(8, path)
    run = made("a", redeliveries=2)
    quarantine.add(run, 0.0)
    assert quarantine.admit(1.0) == []
    assert quarantine.next(1.0) == 1.0 + LOOK_AGAIN
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert quarantine.admit(2.0) == [run]
    quarantine.ended([run])
    assert Isolation(path).enter()


@pytest.mark.parametrize("path", ["missing/x", "."])
def test_without_a_lock_suspects_run_all_the_same(tmp_path, path):
    isolation = Isolation(tmp_path / path)
    assert isolation.enter()
    isolation.leave()


# -- the whole ---------------------------------------------------------------------------------------


@dataclass
class Pool:
    """A pool's single worker, restarted again and again by its own clock: the quarantine's view of its deaths."""

    concurrency: int
    poison: dict[str, float]  # job: when it is pushed
    innocent: dict[str, float]  # job: seconds that it takes
    now: float = 0.0
    kills: int = 0
    deaths: dict[str, int] = field(default_factory=dict)
    crashes: dict[str, int] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)

    def serve(self) -> None:
        """Work until nothing is left."""
        left = {*self.poison, *self.innocent}
        while left:
            left -= self.one_worker(left)
            assert self.kills < 60

    def one_worker(self, left: set[str]) -> set[str]:
        """Return the jobs that one worker ended before it died, or all."""
        ended: set[str] = set()
        quarantine = watched(self.concurrency)
        held: set[str] = set()
        running: dict[str, float] = {}  # and when it ends
        suspects: dict[str, Run] = {}
        while left - ended:
            for name in sorted(left - ended - held):
                if self.poison.get(name, 0.0) > self.now:
                    continue
                held.add(name)
                if self.crashes.get(name, 0) >= MAX_REDELIVERIES:
                    self.dead.append(name)
                    ended.add(name)
                    continue
                run = made(name, redeliveries=self.deaths.get(name, 0))
                if quarantine.concerns(run):
                    quarantine.add(run, self.now)
                elif len(running) < self.concurrency:
                    running[name] = self.now + self.innocent.get(name, 0.0)
                else:
                    held.discard(name)
            for run in quarantine.admit(self.now):
                suspects[run.id] = run
                running[run.id] = self.now + self.innocent.get(run.id, 0.0)
            if running.keys() & self.poison.keys():
                self.die(running)
                return ended
            if not left - ended:
                break
            times = [quarantine.next(self.now), *running.values(), *(at for at in self.poison.values() if at > self.now)]
            self.now = max(min(times), self.now)
            for name in [name for name, end in running.items() if end <= self.now]:
                del running[name]
                ended.add(name)
                quarantine.ended([suspects.pop(name)] if name in suspects else [])
        return ended

    def die(self, running: dict[str, float]) -> None:
        self.kills += 1
        self.now += 0.2  # until the next one serves
        guilty = charged([entry(name, self.deaths.get(name, 0)) for name in running])
        for name in guilty:
            self.deaths[name] = self.deaths.get(name, 0) + 1
            self.crashes[name] = self.crashes.get(name, 0) + (len(guilty) == 1)


def test_one_among_five_thousand_is_found_in_eight_deaths_and_the_others_are_done():
    pool = Pool(5000, {"n2500!": 0.0}, {f"n{number}": 2.0 for number in range(4999)})
    pool.serve()
    assert pool.dead == ["n2500!"]
    assert pool.kills <= 8
    assert pool.now < 100.0, "a sixteenth at a time, twice, of jobs of 2 s"


@settings(deadline=None, max_examples=150)
@given(
    concurrency=st.sampled_from([1, 2, 8, 64, 200]),
    poison=st.lists(st.floats(0, 20), min_size=1, max_size=2),
    innocent=st.lists(st.sampled_from([0.01, 2.0, 40.0]), max_size=60),
)
def test_every_poisonous_job_is_found_and_no_innocent_one_is_taken_for_it(concurrency, poison, innocent):
    pool = Pool(
        concurrency,
        {f"p{number}": at for number, at in enumerate(poison)},
        {f"n{number}": seconds for number, seconds in enumerate(innocent)},
    )
    pool.serve()
    assert sorted(pool.dead) == sorted(pool.poison)


def test_a_worker_of_one_job_is_not_replaced_because_another_worker_runs_suspects(app, registry, tmp_path, monkeypatch):
    """It gives the suspect back for a while, runs other jobs, and is replaced after the job that it has run."""
    monkeypatch.setattr(reservations, "AFTER_OTHERS", 0.01)
    monkeypatch.setattr(quarantine_module, "PAUSE", 0.001)
    ran = []

    @job(registry=registry, name="run")
    def run(text: str) -> None:
        ran.append(text)
        worker.courier.stop()

    class Due(Listener):
        def due(self, why):
            ran.append(f"due: {why}")

    suspect = app.enqueue(run.call("suspect"))
    for _ in range(SUSPECT):
        app.operate(lambda backend: _die(backend, suspect.id))
    path = tmp_path / "p.suspects"
    lock = f"import fcntl; file = open({str(path)!r}, 'w'); fcntl.lockf(file, fcntl.LOCK_EX); print(flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    worker = Worker(
        app,
        "p",
        config.Pool(),
        None,
        max_jobs=1,
        keeps_house=False,
        board=Scoreboard(),
        isolation=Isolation(path),
        listener=Due(),
    )

    def then_another():
        until(lambda: app.operate(lambda backend: backend.get(suspect.id)).deferrals >= 3)
        app.enqueue(run.call("another"))

    thread = threading.Thread(target=then_another)
    thread.start()
    worker.run()
    thread.join()
    other.communicate(b"\n")
    assert sorted(ran) == ["another", "due: max_jobs"]
    assert app.operate(lambda backend: backend.get(suspect.id)).redeliveries == SUSPECT


def _die(backend, job_id):
    backend.open("dies")
    [delivery] = backend.reserve(["default"], 1, new_token())
    assert delivery.id == job_id
    backend.release_owner("dies", [job_id], b"")
