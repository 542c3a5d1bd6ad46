"""`jobsctl top` on its own terminal, and the arithmetic behind it."""

from __future__ import annotations

import contextlib
import re
import signal
import termios

import pytest

from jobs_core.cli.rates import BLOCKS, Meter, blocks
from jobs_core.scoreboard.state import PoolState, TopicState, read_board

from ..support.board import FakeBoard, run
from ..support.project import without_waits
from ..support.screen import Screen


@pytest.fixture
def board(project):
    made = FakeBoard(project.root / ".jobs")
    made.worker("h-1")
    yield made
    made.close()


def end_runs(board, number, outcome="done", *, owner="h-1", topic="email"):
    """Let a worker end runs, and publish its own counters too."""
    worker = board.workers[owner]
    for _ in range(number):
        one = run("tasks.send", topic)
        one.ended = one.started + 0.01
        worker.note(one, outcome)
    worker.publish()
    tally = board.__dict__.setdefault("tallies", {}).setdefault(owner, [0, 0])
    tally[outcome != "done"] += number
    worker.beat(*tally, 0)


# -- arithmetic ----------------------------------------------------------------------------------


def test_rates_are_the_difference_of_two_looks(board):
    meter = Meter()
    end_runs(board, 50)
    assert meter.look(read_board(board.run_dir), now=100.0).topics == {}
    end_runs(board, 30)
    end_runs(board, 4, "retry")
    end_runs(board, 2, "dead")
    rates = meter.look(read_board(board.run_dir), now=102.0)
    assert rates.topics == {"email": (15.0, 3.0)}
    assert rates.pools == {"default": (15.0, 3.0)}


def test_a_worker_that_comes_counts_from_nothing_and_one_that_goes_takes_nothing_away(board):
    meter = Meter()
    end_runs(board, 5)
    meter.look(read_board(board.run_dir), now=100.0)
    board.worker("h-2", pool="mail")
    end_runs(board, 8, owner="h-2", topic="mail")
    assert meter.look(read_board(board.run_dir), now=101.0).pools == {"default": (0.0, 0.0), "mail": (8.0, 0.0)}
    (board.run_dir / "workers" / "h-2").unlink()
    rates = meter.look(read_board(board.run_dir), now=102.0)
    assert rates.pools == {"default": (0.0, 0.0)}
    assert rates.topics == {"email": (0.0, 0.0)}


def test_the_graph_is_the_last_minute(board):
    meter = Meter()
    meter.look(read_board(board.run_dir), now=0.0)
    for second in range(1, 101):
        end_runs(board, 8 if second > 70 else 1)
        meter.look(read_board(board.run_dir), now=float(second))
    assert meter.graph("email", 60) == "▁" * 30 + "█" * 30
    assert meter.graph("email", 20) == "▁" * 10 + "█" * 10
    assert meter.graph("nothing", 5) == "     "
    assert meter.peak("email") == 8.0


def test_the_graph_has_no_holes_when_looks_are_uneven(board):
    meter = Meter()
    now = 0.0
    meter.look(read_board(board.run_dir), now)
    for pause in [0.3, 1.013, 2.5, 0.9] * 20:
        now += pause
        end_runs(board, round(pause * 100))
        meter.look(read_board(board.run_dir), now)
    assert meter.graph("email", 60).strip("█▇") == ""


def test_blocks_show_what_is_small_and_nothing_where_nothing_is():
    assert blocks([0, 0.001, 4, 8]) == " ▁▄█"
    assert blocks([0, 0]) == "  "
    assert blocks([]) == ""
    assert len(BLOCKS) == 9


# -- a page --------------------------------------------------------------------------------------


def test_one_page_for_a_pipe(project, board):
    end_runs(board, 3)
    board.backlog.topics = {"email": TopicState(3, 0, 1, 0, 200.0)}
    board.supervisor.pools.append(PoolState("mail", ["mail"], "async", 1000, 0, 4, 1, cannot_boot=True, last_error="no"))
    board.write()
    with board.held():
        done = project.run("top", "--interval", "0.1")
    assert done.returncode == 0, done.stderr
    assert without_waits(done.stderr) == ""
    assert re.search(r"^topic +ready +oldest +done/s +failed/s +peak +last minute$", done.stdout, re.MULTILINE)
    assert re.search(r"^email +3 +3 m +0 +0 +0$", done.stdout, re.MULTILINE)
    assert re.search(r"^default +1/2 +2–8 +sync +0 +0 +0 +email, default$", done.stdout, re.MULTILINE)
    assert "! pool mail: its workers cannot boot: no\n" in done.stdout
    assert "\x1b" not in done.stdout


def test_jobs_that_a_limit_or_their_flow_holds_back_have_columns_if_there_are_any(project, board):
    board.backlog.topics = {"email": TopicState(3, limited=1200), "default": TopicState(0, members=5)}
    board.write()
    with board.held():
        text = project.here("top", "--once", "--interval", "0.05")
    assert re.search(r"^topic +ready +limited +waiting +oldest +done/s", text, re.MULTILINE)
    assert re.search(r"^email +3 +1,200 +0 +0 +0", text, re.MULTILINE)
    assert re.search(r"^default +0 +0 +5 +0 +0", text, re.MULTILINE)


def test_nothing_runs_is_exit_code_3(project):
    done = project.run("top", "--once")
    assert (done.returncode, done.stdout.count("\n")) == (3, 1)


# -- a terminal ----------------------------------------------------------------------------------


@pytest.fixture
def terminal(project):
    with contextlib.ExitStack() as stack:

        def start(**size):
            made = Screen(project, **size)
            stack.callback(made.close)
            return made

        yield start


def test_it_updates_live_and_q_quits(project, board, terminal):
    with board.held():
        screen = terminal()
        screen.until("1 worker, 0 busy with 0 jobs; 0 done, 0 failed so far")
        end_runs(board, 1234)
        screen.until("1,234 done, 0 failed so far")
        screen.until("█")
        screen.press("z")
        screen.until("last minute")
        screen.press("q")
        assert screen.wait() == 0
    assert b"\x1b[?1049h" in screen.raw  # `top` has its own screen: the previous one comes back
    assert b"\x1b[?1049l" in screen.raw
    assert termios.tcgetattr(screen.its) == screen.before


@pytest.mark.parametrize("how", ["control-c", "terminated"])
def test_however_it_ends_the_terminal_is_as_it_was(project, board, terminal, how):
    with board.held():
        screen = terminal()
        screen.until("is serving: up 2 h")
        if how == "control-c":
            screen.type("\x03")
        else:
            screen.process.send_signal(signal.SIGTERM)
        assert screen.wait() == 0
    assert b"\x1b[?1049l" in screen.raw
    assert termios.tcgetattr(screen.its) == screen.before


def test_a_supervisor_that_ends_and_restarts_is_followed(project, board, terminal):
    with board.held():
        screen = terminal()
        screen.until("is serving: up 2 h")
    screen.until("waiting for a supervisor (q quits)")
    with board.held():
        screen.until("is serving: up 2 h")
        screen.press("q")
        assert screen.wait() == 0


def test_a_small_terminal_is_enough(project, board, terminal):
    board.backlog.topics = {f"topic-{number}": TopicState(number) for number in range(100)}
    for number in range(50):
        board.worker(f"w-{number}", pid=5000 + number)
    with board.held():
        screen = terminal(rows=24, columns=80)
        screen.until("last minute")
        screen.until("and 97 more topics")
        screen.press("q")
        assert screen.wait() == 0
