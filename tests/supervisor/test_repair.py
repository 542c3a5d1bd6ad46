"""The consequences of deaths: for workers, for their jobs, and for all processes when the supervisor dies."""

from __future__ import annotations

import signal

import msgspec
import pytest

from jobs_core.scoreboard.state import Board, PoolState
from jobs_core.scoreboard.writer import start_ticks
from jobs_core.testing.services import freeze

from ..support.project import TASKS, Project, until
from ..support.supervised import Supervised, gone, kill, seconds_until

MORE = """
import signal, subprocess

@job
def segfault():
    print("about to fall")
    os.kill(os.getpid(), signal.SIGSEGV)

@job
async def poison():
    record("poison", os.getpid())
    os._exit(42)

@job
def unsettled():
    from jobs_core.worker.settlements import Settlements
    Settlements.send = lambda self: os._exit(9)  # the run ends well, and its worker dies of telling so

@job
def with_child():
    child = subprocess.Popen(["sleep", "600"])
    record("child", child.pid)
    time.sleep(600)

class Slow:
    pass
"""


@pytest.fixture
def tasks(project: Project) -> Project:
    (project.root / "tasks.py").write_text(TASKS + MORE)
    return project


def test_a_killed_worker_is_back_and_its_job_runs_again(tasks: Project):
    tasks.configure("pools.default.workers = 2")
    supervised = Supervised(tasks)
    job_id = tasks.push("nap", 0.8, "long")
    until(lambda: any(line.startswith("start long") for line in tasks.ledger()))
    first = supervised.worker_of("long")
    before = supervised.pids()
    kill(first)
    again = seconds_until(lambda: sum(line.startswith("start long") for line in tasks.ledger()) == 2)
    assert again < 5.0, "handed out at once, not when a lease runs out"
    supervised.until_serving(2)
    assert supervised.pids() != before
    tasks.until_noted("end long")
    crashes = supervised.until(lambda board: board.supervisor and board.supervisor.crashes)
    assert [(crash.pid, crash.signal) for crash in crashes] == [(first, "SIGKILL")]
    assert job_id in crashes[0].jobs[0]
    supervised.stop()


def test_a_pool_whose_young_workers_are_killed_restarts_without_a_pause(tasks: Project):
    tasks.configure("pools.default.workers = 3")
    supervised = Supervised(tasks)
    for pid in supervised.pids():
        kill(pid)
    supervised.process.until_said(" died: ", times=3)
    supervised.until_serving(3)
    deaths = [line for line in supervised.process.lines if " died: " in line]
    assert all(line.endswith("a replacement starts immediately") for line in deaths), deaths
    supervised.stop()


def test_a_job_that_kills_its_workers_ends_dead_with_all_that_is_known(tasks: Project):
    supervised = Supervised(tasks)
    tasks.push("segfault")
    until(lambda: tasks.dead())
    (letter,) = tasks.dead()
    assert letter.reason == "crashed"
    history = [msgspec.json.decode(error) for error in letter.errors]
    falls = [entry for entry in history if entry["type"] == "WorkerDied"]
    assert len(falls) == 3
    assert falls[0]["signal"] == "SIGSEGV"
    assert falls[0]["peak_memory"] > 5_000_000
    assert "in segfault" in falls[0]["traceback"], "faulthandler's stacks"
    assert any("about to fall" in line for line in falls[0]["log"])
    tasks.push("note", "after")
    tasks.until_noted("note after")
    supervised.stop()


ENDS = {
    "zero": "os._exit(0)",
    "cannot_boot": "os._exit(70)",
    "replace": "os._exit(75)",
    "program": "os.execvp('true', ['true'])",
}
"""Ways for a job to end its worker with an exit code that the worker itself uses, or with that of another program."""


def test_a_job_that_ends_its_worker_is_charged_whatever_the_exit_code(project: Project):
    jobs = "".join(f"\n@job(on_dead='tasks.bury')\ndef {name}():\n    {code}\n" for name, code in ENDS.items())
    bury = "\n@job\ndef bury(job: str, reason: str):\n    record(reason, job)\n"
    (project.root / "tasks.py").write_text(TASKS + jobs + bury)
    project.configure("max_redeliveries = 1")
    supervised = Supervised(project)
    project.push_many([(name, (), {}) for name in ENDS])
    project.until_noted(*[f"crashed tasks.{name}" for name in ENDS])
    supervised.until(lambda board: board.supervisor and len(board.supervisor.crashes) == len(ENDS))
    assert supervised.stop() == 0


@pytest.mark.parametrize("stopping", [False, True])
def test_a_job_that_kills_its_workers_ends_dead_though_each_worker_runs_one_job(project: Project, stopping: bool):
    """Every such worker is told to stop as soon as it has reserved the job."""
    wait = "\n    while not current_job().stopping:\n        time.sleep(0.01)" if stopping else ""
    (project.root / "tasks.py").write_text(f"{TASKS}\n@job\ndef poison():{wait}\n    record('poison')\n    os._exit(3)\n")
    project.configure("pools.default.max_jobs = 1")
    supervised = Supervised(project)
    project.push("poison")
    project.until(project.dead)
    (letter,) = project.dead()
    assert letter.reason == "crashed"
    assert project.ledger() == ["poison"] * 3
    project.push("note", "after")
    project.until_noted("note after")
    assert supervised.stop() == 0


def test_the_culprit_is_found_among_its_neighbours_and_they_are_all_done(tasks: Project):
    tasks.configure('[pools.default]\nmode = "async"\nconcurrency = 300\nworkers = 2')
    supervised = Supervised(tasks)
    calls = [("anap", (0.2, f"n{number}"), {}) for number in range(300)]
    calls.insert(150, ("poison", (), {}))
    tasks.push_many(calls)
    until(lambda: tasks.dead(), 60.0)
    (letter,) = tasks.dead()
    assert letter.reason == "crashed"
    assert msgspec.json.decode(letter.payload)["job"] == "tasks.poison"
    ended = {f"end n{number}" for number in range(300)}
    until(lambda: ended <= set(tasks.ledger()), 60.0)
    supervised.stop()


def test_a_crash_while_settling_is_not_blamed_on_the_job_that_ended_just_before(tasks: Project):
    tasks.configure("max_redeliveries = 2")
    supervised = Supervised(tasks)
    calls = [("note", (f"n{number}",), {}) for number in range(40)]
    calls.insert(20, ("unsettled", (), {}))
    tasks.push_many(calls)
    until(lambda: tasks.dead(), 60.0)
    (letter,) = tasks.dead()
    assert (letter.reason, msgspec.json.decode(letter.payload)["job"]) == ("crashed", "tasks.unsettled")
    ended = {f"note n{number}" for number in range(40)}
    until(lambda: ended <= set(tasks.ledger()), 60.0)
    supervised.stop()


def test_a_stopped_worker_is_killed_before_its_lease_runs_out(tasks: Project):
    tasks.configure('lease = "2s"')
    supervised = Supervised(tasks)
    tasks.push("nap", 0.5, "held")
    until(lambda: any(line.startswith("start held") for line in tasks.ledger()))
    freeze(supervised.worker_of("held"))
    supervised.process.until_said("no heartbeat for")
    tasks.until_noted("end held")
    supervised.stop()


def test_nothing_outlives_a_killed_supervisor_and_the_next_start_works(tasks: Project):
    tasks.configure("pools.default.workers = 2")
    supervised = Supervised(tasks)
    tasks.push("with_child")
    tasks.push("nap", 1.0, "long")
    until(lambda: any(line.startswith("child") for line in tasks.ledger()))
    until(lambda: any(line.startswith("start long") for line in tasks.ledger()))
    child = int(next(line for line in tasks.ledger() if line.startswith("child")).split()[1])
    everybody = [(pid, start_ticks(pid)) for pid in [*supervised.children(), child]]
    supervised.kill()
    # Two seconds are promised; the machine may be busy.
    assert seconds_until(lambda: all(gone(pid, ticks) for pid, ticks in everybody)) < 4.0
    again = Supervised(tasks)
    tasks.until_noted("end long")
    until(lambda: sum(line.startswith("child") for line in tasks.ledger()) == 2)
    again.process.signal(signal.SIGQUIT)
    again.process.wait()


@pytest.mark.parametrize("who", ["template", "housekeeper"])
def test_a_killed_helper_is_back_and_jobs_in_progress_do_not_notice(tasks: Project, who: str):
    tasks.configure("pools.default.workers = 2")
    supervised = Supervised(tasks)
    tasks.push("nap", 1.5, "long")
    until(lambda: any(line.startswith("start long") for line in tasks.ledger()))
    worker = supervised.worker_of("long")

    def pid() -> int:
        state = supervised.board().supervisor
        assert state is not None
        return state.template_pid if who == "template" else state.housekeeper_pid

    before: int = until(pid)  # the housekeeper starts once workers serve
    kill(before)
    until(lambda: pid() not in (0, before))
    kill(next(iter(supervised.pids() - {worker})))  # a new worker can be started, and jobs released
    supervised.until_serving(2)
    tasks.until_noted("end long")
    assert sum(line.startswith("start long") for line in tasks.ledger()) == 1
    supervised.stop()


def test_workers_that_cannot_boot_back_off_and_report_the_reason(tasks: Project):
    (tasks.root / "tasks.py").write_text(TASKS)
    tasks.configure("pools.default.preload = false")
    supervised = Supervised(tasks)
    (tasks.root / "tasks.py").write_text("raise RuntimeError('no licence')\n")
    kill(next(iter(supervised.pids())))

    def waits(board: Board) -> PoolState | None:
        """Return the pool, if it has failed three times and waits for its next try."""
        pool = board.supervisor.pools[0] if board.supervisor else None
        return pool if pool and pool.failures >= 3 and pool.next_start > 0 else None

    pool = supervised.until(waits)
    assert pool.cannot_boot
    assert "no licence" in pool.last_error
    (tasks.root / "tasks.py").write_text(TASKS)
    supervised.until_serving(1)
    tasks.push("note", "well")
    tasks.until_noted("note well")
    supervised.stop()


def test_threads_at_import_turn_preload_off_by_name(tasks: Project):
    (tasks.root / "tasks.py").write_text(
        TASKS + "\nimport threading\nthreading.Thread(target=threading.Event().wait, name='poller', daemon=True).start()\n"
    )
    supervised = Supervised(tasks)
    supervised.process.until_said("threads are running after the import (poller)")
    tasks.push("note", "one")
    tasks.until_noted("note one")
    supervised.stop()
