"""In a dead worker's file, a job counts as started from the beginning of its run until it is settled."""

from __future__ import annotations

import pytest

from jobs_core import Discard, Retry, Snooze, job
from jobs_core.backends.memory import MemoryBackend
from jobs_core.config import Pool
from jobs_core.scoreboard import layout
from jobs_core.scoreboard.reader import WorkerFile
from jobs_core.scoreboard.writer import FileScoreboard
from jobs_core.supervisor.housekeeper.repair import describe
from jobs_core.supervisor.system.messages import Repair
from jobs_core.worker.main import Worker

MODES = ["sync", "threads", "async"]


class CannotSettle(MemoryBackend):
    """A backend without descriptors or memory: the exception that it raises is not an outage."""

    def settle(self, settlements, request):
        raise OSError(9, "Bad file descriptor")


@pytest.fixture
def board(tmp_path):
    """The path of a scoreboard file, and a function that makes a worker that writes it."""
    made = []

    def make(app, mode, **options):
        file = FileScoreboard(tmp_path / "w1", owner="w1", pool="p", generation=1, mode=mode, slots=1 if mode == "sync" else 4)
        made.append(file)
        return Worker(app, "p", Pool(mode=mode, concurrency=4), None, drain=True, board=file, **options)

    yield make
    for file in made:
        file.close()


def charged(tmp_path):
    return describe(tmp_path / "w1", Repair("w1", 0.0, "it died", crash=True)).started


@pytest.mark.parametrize("mode", MODES)
def test_a_worker_that_dies_before_the_settlement_names_the_jobs_that_ran(app, registry, board, tmp_path, monkeypatch, mode):
    ran = []

    @job(registry=registry, name="closes.everything")
    def closes() -> None:
        ran.append(1)

    url, made = app.backend_url, app.new_backend
    ids = [handle.id for handle in closes.enqueue_many([()] * 3)]
    monkeypatch.setattr(app, "new_backend", lambda: CannotSettle(url, made()._options))
    with pytest.raises(OSError, match="Bad file descriptor"):
        board(app, mode).run()
    assert sorted(charged(tmp_path)) == sorted(ids[: len(ran)])
    file = WorkerFile(tmp_path / "w1")
    assert file.running() == 0
    assert list(file.entries()) == []
    file.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("acks", ["late", "early"])
def test_a_settled_job_is_charged_no_crash_and_its_slot_is_reused(app, registry, board, tmp_path, mode, acks):
    @job(registry=registry, name="short", acks=acks, retries=0)
    def short(number: int) -> None:
        if number % 3 == 0:
            raise ValueError(number)

    short.enqueue_many([(number,) for number in range(2500)])  # more than there are entries
    worker = board(app, mode)
    worker.run()
    assert worker.courier.done + worker.courier.failed == 2500
    assert charged(tmp_path) == []
    free = worker.courier._board._free
    assert sorted(free) == list(range(len(free)))
    assert len(free) == layout.entries(1 if mode == "sync" else 4) - 1


def test_an_id_that_an_application_chose_is_charged_whole(app, registry, board, tmp_path, monkeypatch):
    @job(registry=registry, name="short")
    def short() -> None: ...

    url, made = app.backend_url, app.new_backend
    long_id = "invoice-" + "7" * 120
    short.using(id=long_id).enqueue()
    monkeypatch.setattr(app, "new_backend", lambda: CannotSettle(url, made()._options))
    with pytest.raises(OSError, match="Bad file descriptor"):
        board(app, "sync").run()
    assert charged(tmp_path) == [long_id]


def test_a_failing_courier_starts_nothing_more_and_reports_it_outside_the_applications_logging(
    app, registry, board, monkeypatch, capfd
):
    ran = []

    @job(registry=registry, name="short")
    def short(number: int) -> None:
        ran.append(number)

    class CannotReserveTwice(CannotSettle):
        pass

    url, made = app.backend_url, app.new_backend
    short.enqueue_many([(number,) for number in range(5)])
    monkeypatch.setattr(app, "new_backend", lambda: CannotReserveTwice(url, made()._options))
    monkeypatch.setattr("logging.Logger.disabled", True, raising=False)
    with pytest.raises(OSError, match="Bad file descriptor"):
        board(app, "sync").run()
    assert ran == [0]
    assert "the courier failed" in capfd.readouterr().err


def test_only_attempts_that_failed_count_as_failed(app, registry, board):
    outcomes = {
        "done": None,
        "snoozed": Snooze(0),
        "retried": Retry(delay=0),
        "dead": ValueError("x"),
        "discarded": Discard("x"),
    }

    @job(registry=registry, name="ends", retries=1, backoff="100ms")
    def ends(how: str) -> None:
        error = outcomes[how]
        if how != "dead":
            outcomes[how] = None  # the second run is done
        if error is not None:
            raise error

    ends.enqueue_many([(how,) for how in outcomes])
    worker = board(app, "sync")
    worker.run()
    assert worker.courier.done == 3, "the one that snoozed and the one that was retried, too"
    assert worker.courier.failed == 4, "two attempts of the dead one, a retry and a discard, and no snooze"
