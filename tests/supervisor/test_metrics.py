"""/metrics is read by an independent parser, and stays right while workers come and go."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from jobs_core.scoreboard import state
from jobs_core.scoreboard.layout import BUCKETS, NAMED, OPS, Phase
from jobs_core.scoreboard.reader import OpFigures, WorkerFile, total
from jobs_core.scoreboard.state import PoolState, TopicState, Totals, read_board
from jobs_core.supervisor.housekeeper.totals import TotalsFile
from jobs_core.supervisor.http import metrics

from ..support.board import FakeBoard, run

NASTY = 'a"b\\c\nd'


@pytest.fixture
def board(tmp_path):
    made = FakeBoard(tmp_path / "run")
    yield made
    made.close()


def ended(board, owner, outcome="done", *, job="tasks.send", topic="email", seconds=0.3, trace=b""):
    """Let a worker end a run."""
    one = run(job, topic)
    one.trace = trace
    one.ended = one.started + seconds
    board.workers[owner].note(one, outcome)
    board.workers[owner].publish()


def families(board, *, openmetrics=True):
    text = metrics.exposition(read_board(board.run_dir), lease=30, openmetrics=openmetrics)
    parse = parse_openmetrics if openmetrics else parse_prometheus
    return {family.name: family for family in parse(text)}


def value(found, family, sample, **labels):
    return next(each.value for each in found[family].samples if each.name == sample and each.labels == labels)


def full(board):
    """Create everything that metrics can show."""
    board.worker("h-1").begin(run("tasks.send", "email", ago=1))
    board.worker("h-2", phase=Phase.OFFLINE)
    board.worker("h-3", child="retiring")
    for outcome in ("done", "done", "retry", "dead"):
        ended(board, "h-1", outcome)
    board.backlog.topics = {"email": TopicState(3, 4, 1, 2, 75.5), "default": TopicState(paused=True), "rabbits": TopicState(3)}
    board.backlog.topics["email"].pushed, board.backlog.topics["email"].refused = 12, 5
    board.backlog.alerts = ["email"]
    board.backlog.unserved = {"rabbits": ["tasks.feed"]}
    board.supervisor.pools[0].restarts = {"max_jobs": 3, "crash": 1}
    board.supervisor.pools.append(PoolState("mail", ["mail"], "async", 100, 0, 4, 0, failures=2))
    board.totals.released = 7
    for number, op in enumerate(OPS):
        board.workers["h-1"].note_call(op, 0.002 * 10**number)
    board.workers["h-1"].beat(3, 1, 0)
    board.backlog.ops = {"count": OpFigures()}
    board.backlog.ops["count"].note(0.03)
    board.write(reloads={"done": 2, "refused": 1}, crashed=5)
    return board


def test_openmetrics_is_read_by_an_independent_parser(board):
    found = families(full(board))
    finished = {
        each.labels["outcome"]: each.value for each in found["jobs_finished"].samples if each.labels["job"] == "tasks.send"
    }
    assert finished == {"done": 2, "retry": 1, "dead": 1, "cancelled": 0, "deferred": 0, "stale": 0}
    assert found["jobs_finished"].type == "counter"
    labels = {"topic": "email", "job": "tasks.send"}
    assert found["jobs_run_seconds"].type == "histogram"
    assert found["jobs_run_seconds"].unit == "seconds"
    assert value(found, "jobs_run_seconds", "jobs_run_seconds_count", **labels) == 4
    assert math.isclose(value(found, "jobs_run_seconds", "jobs_run_seconds_sum", **labels), 1.2)
    assert value(found, "jobs_run_seconds", "jobs_run_seconds_bucket", **labels, le="0.25") == 0
    assert value(found, "jobs_run_seconds", "jobs_run_seconds_bucket", **labels, le="0.5") == 4
    assert value(found, "jobs_run_seconds", "jobs_run_seconds_bucket", **labels, le="+Inf") == 4
    assert len([each for each in found["jobs_run_seconds"].samples if "le" in each.labels]) == len(BUCKETS) + 1
    assert value(found, "jobs_wait_seconds", "jobs_wait_seconds_count", **labels) == 4
    assert value(found, "jobs_topic_jobs", "jobs_topic_jobs", topic="email", state="ready") == 3
    assert value(found, "jobs_topic_oldest_age_seconds", "jobs_topic_oldest_age_seconds", topic="email") == 75.5
    assert value(found, "jobs_topic_oldest_age_seconds", "jobs_topic_oldest_age_seconds", topic="default") == 0
    assert value(found, "jobs_enqueued", "jobs_enqueued_total", topic="email") == 12
    assert value(found, "jobs_duplicate_refused", "jobs_duplicate_refused_total", topic="email") == 5
    assert [each.labels["topic"] for each in found["jobs_enqueued"].samples] == ["email"], "others do not count"
    aged = {each.labels["topic"] for each in found["jobs_topic_oldest_age_seconds"].samples}
    assert aged == {"email", "default"}, "an unknown value must not be reported as a number"
    assert value(found, "jobs_topic_paused", "jobs_topic_paused", topic="default") == 1
    assert value(found, "jobs_topic_unserved", "jobs_topic_unserved", topic="rabbits") == 1
    assert value(found, "jobs_topic_unserved", "jobs_topic_unserved", topic="email") == 0
    assert value(found, "jobs_topic_alert", "jobs_topic_alert", topic="email") == 1
    workers = {each.labels["state"]: each.value for each in found["jobs_workers"].samples if each.labels["pool"] == "default"}
    assert {name: number for name, number in workers.items() if number} == {"busy": 1, "offline": 1, "retiring": 1}
    assert value(found, "jobs_running", "jobs_running", pool="default") == 1
    assert value(found, "jobs_worker_memory_bytes", "jobs_worker_memory_bytes", pool="default") == 3 * 45_000_000
    assert value(found, "jobs_worker_restarts", "jobs_worker_restarts_total", pool="default", reason="max_jobs") == 3
    assert value(found, "jobs_worker_crashes", "jobs_worker_crashes_total") == 5
    assert value(found, "jobs_pool_failures", "jobs_pool_failures", pool="mail") == 2
    assert value(found, "jobs_redelivered", "jobs_redelivered_total") == 7
    assert value(found, "jobs_backend_up", "jobs_backend_up") == 1
    assert value(found, "jobs_backend_round_trip_seconds", "jobs_backend_round_trip_seconds") == 0.002
    assert value(found, "jobs_reload", "jobs_reload_total", result="refused") == 1
    assert value(found, "jobs_build", "jobs_build_info", version="0.1.0") == 1
    assert value(found, "process_start_time_seconds", "process_start_time_seconds") == board.supervisor.started_at


def test_the_older_format_has_the_same_content(board):
    full(board)
    text = metrics.exposition(read_board(board.run_dir), lease=30, openmetrics=False)
    assert "# TYPE jobs_finished_total counter\n" in text
    assert "# TYPE jobs_build_info gauge\n" in text
    assert "# UNIT" not in text
    assert "# EOF" not in text

    def samples(found):
        return {
            (each.name, tuple(sorted(each.labels.items()))): each.value for family in found.values() for each in family.samples
        }

    assert samples(families(board, openmetrics=False)) == samples(families(board))


def test_names_from_messages_are_escaped(board):
    board.worker("h-1")
    ended(board, "h-1", job=NASTY, topic=NASTY)
    board.backlog.topics = {NASTY: TopicState(ready=1)}
    board.write()
    for openmetrics in (True, False):
        found = families(board, openmetrics=openmetrics)
        assert value(found, "jobs_run_seconds", "jobs_run_seconds_count", topic=NASTY, job=NASTY) == 1
        assert value(found, "jobs_topic_jobs", "jobs_topic_jobs", topic=NASTY, state="ready") == 1


def test_an_empty_run_directory_is_not_an_error(tmp_path):
    text = metrics.exposition(read_board(tmp_path), lease=30, openmetrics=True)
    assert {family.name for family in parse_openmetrics(text)} == {"jobs_redelivered"}


def test_jobs_that_find_no_row_share_one(board):
    board.worker("h-1")
    for number in range(NAMED + 11):
        ended(board, "h-1", job=f"tasks.job_{number}")
    found = families(board)
    assert value(found, "jobs_run_seconds", "jobs_run_seconds_count", topic="(other)", job="(other)") == 11
    assert sum(each.value for each in found["jobs_run_seconds"].samples if each.name.endswith("_count")) == NAMED + 11


# -- calls to the backend ------------------------------------------------------------------------


def calls(board):
    return {
        each.labels["op"]: each.value
        for each in families(board)["jobs_backend_op_seconds"].samples
        if each.name == "jobs_backend_op_seconds_count"
    }


def test_calls_to_the_backend_have_finer_buckets_and_do_not_appear_as_jobs(board):
    found = families(full(board))
    assert found["jobs_backend_op_seconds"].unit == "seconds"
    assert value(found, "jobs_backend_op_seconds", "jobs_backend_op_seconds_bucket", op="push", le="0.001") == 0
    assert value(found, "jobs_backend_op_seconds", "jobs_backend_op_seconds_bucket", op="push", le="0.0025") == 1
    assert value(found, "jobs_backend_op_seconds", "jobs_backend_op_seconds_sum", op="push") == 0.002
    assert calls(board) == dict.fromkeys((*OPS, "count"), 1)
    assert {each.labels["job"] for each in found["jobs_finished"].samples} == {"tasks.send"}


def test_calls_to_the_backend_are_counted_on_when_their_worker_goes(board):
    board.worker("h-1")
    board.worker("h-2")
    for owner in ("h-1", "h-2"):
        board.workers[owner].note_call("settle", 0.1)
        board.workers[owner].beat(0, 0, 0)
    totals = TotalsFile(board.run_dir)
    totals.add_worker(board.run_dir / state.WORKERS / "h-1", 0)
    assert calls(board) == {"settle": 2}


# -- exemplars -----------------------------------------------------------------------------------

TRACE, OTHER = bytes(range(16)), bytes(range(1, 17))


def exemplars(board):
    return {
        each.labels["le"]: (each.exemplar.labels, each.exemplar.value)
        for each in families(board)["jobs_run_seconds"].samples
        if each.exemplar
    }


def test_an_exemplar_names_the_trace_of_a_slow_run_in_its_bucket(board):
    board.worker("h-1")
    ended(board, "h-1", seconds=0.3, trace=TRACE)
    ((bucket, (labels, seconds)),) = exemplars(board).items()
    assert (bucket, labels) == ("0.5", {"trace_id": TRACE.hex()})
    assert math.isclose(seconds, 0.3)
    assert "trace_id" not in metrics.exposition(read_board(board.run_dir), lease=30, openmetrics=False)


def test_a_faster_run_replaces_an_exemplar_only_after_a_minute(board, monkeypatch):
    board.worker("h-1")
    ended(board, "h-1", seconds=0.3, trace=TRACE)
    ended(board, "h-1", seconds=0.2, trace=OTHER)
    ended(board, "h-1", seconds=9)
    assert [labels["trace_id"] for labels, _ in exemplars(board).values()] == [TRACE.hex()]
    ended(board, "h-1", seconds=0.4, trace=OTHER)
    assert [labels["trace_id"] for labels, _ in exemplars(board).values()] == [OTHER.hex()]
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    ended(board, "h-1", seconds=0.02, trace=TRACE)
    assert [(bucket, labels["trace_id"]) for bucket, (labels, _) in exemplars(board).items()] == [("0.025", TRACE.hex())]


def test_an_exemplar_goes_with_its_worker(board):
    board.worker("h-1")
    ended(board, "h-1", trace=TRACE)
    TotalsFile(board.run_dir).add_worker(board.run_dir / state.WORKERS / "h-1", 0)
    assert exemplars(board) == {}
    assert done(board) == 1


def test_outdated_counts_of_topics_are_not_exposed(board):
    board.backlog.topics = {"email": TopicState(ready=5)}
    board.backlog.at = board.backlog.answered_at = time.time() - 60
    board.write()
    found = families(board)
    assert "jobs_topic_jobs" not in found
    assert value(found, "jobs_backend_up", "jobs_backend_up") == 0


# -- workers come and go -------------------------------------------------------------------------


def done(board):
    return value(families(board), "jobs_finished", "jobs_finished_total", topic="email", job="tasks.send", outcome="done")


def fold(board, owner):
    """Do what the housekeeper does for a dead worker, a step per `yield`: add it to the totals, remove its file."""
    path = board.run_dir / state.WORKERS / owner
    file = WorkerFile(path)
    rows = list(total([*board.totals.rows, *file.figures()]).values())
    file.close()
    board.totals = Totals(rows, [*board.totals.folded, owner], board.totals.released)
    state.write(board.run_dir / state.TOTALS, board.totals)
    yield
    path.unlink()
    yield


def test_counters_neither_dip_nor_jump_when_a_worker_goes(board):
    board.worker("h-1")
    board.worker("h-2")
    for _ in range(3):
        ended(board, "h-1")
    ended(board, "h-2")
    assert done(board) == 4
    for _ in fold(board, "h-1"):
        assert done(board) == 4
    board.worker("h-3")
    ended(board, "h-3")
    assert done(board) == 5
    for _ in fold(board, "h-2"):
        assert done(board) == 5


def test_a_worker_that_goes_while_it_is_read_is_counted_once(board, monkeypatch):
    """The housekeeper does both its steps at once, at every place of the reader in turn."""
    board.worker("h-1")
    board.worker("h-2")
    for owner in ("h-1", "h-2"):
        ended(board, owner)
    read = state.read

    def between(path: Path, kind):
        if kind is Totals:
            for _ in fold(board, "h-1"):
                pass
        return read(path, kind)

    monkeypatch.setattr(state, "read", between)
    assert done(board) == 2
    monkeypatch.undo()
    assert done(board) == 2

    files = state.worker_files

    def listed(run_dir):
        found = files(run_dir)
        for _ in fold(board, "h-2"):
            pass
        return found

    monkeypatch.setattr(state, "worker_files", listed)
    assert done(board) == 2
    monkeypatch.undo()
    assert done(board) == 2


def test_many_workers_that_go_while_they_are_read_are_counted_once(board, monkeypatch):
    """A reload of a large pool: all old workers are read, then added to the totals, then the totals are read."""
    owners = [f"h-{number}" for number in range(50)]
    for owner in owners:
        board.worker(owner)
        ended(board, owner)
    totals = TotalsFile(board.run_dir)
    read = state.read

    def between(path: Path, kind):
        if kind is Totals:
            for owner in owners:
                totals.add_worker(board.run_dir / state.WORKERS / owner, 1)
        return read(path, kind)

    monkeypatch.setattr(state, "read", between)
    assert done(board) == 50
    monkeypatch.undo()
    assert done(board) == 50
    assert not state.worker_files(board.run_dir)


# -- the documentation ---------------------------------------------------------------------------


def test_every_metric_is_documented_with_its_labels(board):
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    text = metrics.exposition(read_board(full(board).run_dir), lease=30, openmetrics=True)
    for family in parse_openmetrics(text):
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = sorted({label for each in family.samples for label in each.labels} - {"le"})
        row = next((line for line in page.splitlines() if line.startswith(f"| `{family.name}{suffix}` |")), "")
        assert row, f"docs/monitoring.md has no row for {family.name}{suffix}"
        assert sorted(filter(None, row.split("|")[2].replace("`", "").replace(" ", "").split(","))) == labels, row
