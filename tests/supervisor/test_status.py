"""`jobsctl status` on a run directory written by the real writers."""

from __future__ import annotations

import fcntl
import json
import os
import time

import pytest

from jobs_core.scoreboard.layout import Phase
from jobs_core.scoreboard.state import Crash, PoolState, TopicState

from ..support.board import FakeBoard, run
from ..support.project import without_waits

ID = "01933b5e-7c6d-7a3e-9a0e-6f9f1c8b7d11"


@pytest.fixture
def board(project):
    made = FakeBoard(project.root / ".jobs")
    yield made
    made.close()


def status(project, *options, code=0, **environment):
    done = project.run("status", *options, **environment)
    assert done.returncode == code, done.stdout + done.stderr
    assert without_waits(done.stderr) == ""
    return done.stdout


def rows(text, title):
    """Return the lines of one table, by words."""
    block = text.split(f"\n{title}\n")[1].split("\n\n")[0]
    return [line.split() for line in block.splitlines()]


# -- nothing runs --------------------------------------------------------------------------------


def test_not_running_is_one_line_and_exit_code_3(project):
    assert status(project, code=3) == f"not running in {project.root / '.jobs'}; `jobsctl start` starts it\n"
    assert json.loads(status(project, "--json", code=3)) == {"running": False}


def test_leftovers_of_a_supervisor_do_not_count_as_running(project, board):
    (board.run_dir / "supervisor.pid").write_text(f"{os.getpid()}\n")  # alive, and meaningless: no process holds the lock
    assert status(project, code=3).count("\n") == 1


def test_one_that_has_written_nothing_yet_starts_up(project, board):
    with board.held(pid=4242):
        assert status(project) == "starting up as process 4242\n"
        assert json.loads(status(project, "--json")) == {"running": True, "pid": 4242, "state": "starting"}


def test_looking_does_not_hold_the_lock(project, board):
    with board.held():
        status(project)
    with (board.run_dir / "supervisor.pid").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# -- all is well ---------------------------------------------------------------------------------


def test_jobs_that_a_limit_or_their_flow_holds_back_have_columns_if_there_are_any(project, board):
    board.backlog.topics = {"email": TopicState(3, limited=1200, members=5)}
    board.write()
    with board.held():
        text = status(project)
    assert "in the topics: 3 ready, 1,200 limited, 5 waiting, 0 scheduled, 0 reserved, 0 dead\n" in text
    assert rows(text, "Topics") == [
        ["topic", "ready", "limited", "waiting", "scheduled", "reserved", "dead", "oldest"],
        ["email", "3", "1,200", "5", "0", "0", "0"],
    ]


def test_everything_is_shown(project, board):
    busy = board.worker("h-1", done=1234, failed=3)
    ended = run("tasks.send", "email", ago=1)
    ended.ended = ended.started + 0.3
    for outcome in ("done", "done", "retry"):
        busy.note(ended, outcome)
    busy.publish()
    busy.begin(run("tasks.send", "email", ago=190, job_id=ID))
    board.worker("h-2", done=7)
    board.backlog.topics = {"email": TopicState(3, 4, 1, 2, 75.0), "default": TopicState()}
    board.write()
    with board.held():
        text = status(project)
    pid = str(os.getpid())
    first, second, third = text.splitlines()[:3]
    assert first.startswith(f"jobs 0.1.0 is serving: up 2 h 5 m, generation 1, process {pid} on ")
    assert second == "2 workers, 1 busy with 1 job; 2 done, 1 failed so far"
    assert third == "in the topics: 3 ready, 4 scheduled, 1 reserved, 2 dead"
    assert rows(text, "Pools")[1] == ["default", "2/2", "2–8", "sync", "1", "0", "email,", "default"]
    assert rows(text, "Workers")[1:] == [
        [pid, "default", "busy", "tasks.send", "3", "m", "1,234", "3", "45", "MB"],
        [pid, "default", "idle", "7", "0", "45", "MB"],
    ]
    assert rows(text, "Running longest")[1] == ["3", "m", "tasks.send", ID, pid]
    assert rows(text, "Topics")[1:] == [
        ["email", "3", "4", "1", "2", "1", "m", "dead", "letters"],
        ["default", "0", "0", "0", "0"],
    ]
    assert f"template {pid}, housekeeper {pid}" in text
    assert text.endswith(f"\nlog on standard error of process {pid}\n")
    board.write(log="/var/log/jobs.log")
    with board.held():
        assert project.here("status").endswith("\nlog /var/log/jobs.log\n")
    assert [line for line in text.splitlines() if "! " in line] == [
        "! topic email: 2 dead letters, see `jobsctl dead groups email`"
    ]
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80 + len(str(project.root))


def test_counts_from_before_the_backend_fell_silent_show_their_age(project, board):
    board.backlog.topics = {"email": TopicState(3, 0, 0, 0, 4.0)}
    board.backlog.answers, board.backlog.answered_at = False, time.time() - 95
    board.write()
    with board.held():
        text = status(project)
    assert " ".join(rows(text, "Topics")[-1]) == "counted 1 m ago"


def test_json_has_it_all_for_a_script(project, board):
    board.worker("h-1", done=5, failed=1).begin(run("tasks.send", "email", ago=10, job_id=ID, timeout=3))
    board.backlog.topics = {"email": TopicState(3, 4, 1, 2, 75.0, paused=True)}
    board.backlog.alerts = ["email"]
    board.write()
    with board.held():
        found = json.loads(status(project, "--json"))
    assert found["running"] is True
    assert found["pid"] == os.getpid()
    assert found["uptime"] >= 7500
    assert found["pools"][0]["name"] == "default"
    worker = found["workers"][0]
    assert (worker["state"], worker["done"], worker["failed"], worker["memory"]) == ("busy", 5, 1, 45_000_000)
    running = worker["running"][0]
    assert (running["id"], running["job"], running["topic"], running["overdue"]) == (ID, "tasks.send", "email", True)
    assert 10 <= running["seconds"] < 60
    assert found["topics"]["email"] == {
        "ready": 3, "scheduled": 4, "reserved": 1, "dead": 2, "oldest_age": 75.0, "paused": True, "alert": True,
        "unserved": False,
    }  # fmt: skip
    assert found["backend"]["answers"] is True
    assert len(found["troubles"]) == 2


# -- trouble comes first -------------------------------------------------------------------------


def test_problems_for_an_operator_are_shown_before_all_tables(project, board):
    board.supervisor.pools = [
        PoolState("a", ["a"], "sync", 1, 1, 1, 1, failures=4, next_start=time.time() + 1010, last_error="killed by SIGSEGV"),
        PoolState(
            "b", ["b"], "sync", 1, 1, 1, 1, cannot_boot=True, next_start=time.time() + 1010, last_error="ImportError: no shop"
        ),
    ]
    board.backlog.topics = {"a": TopicState(12000, 0, 0, 0, 700.0), "b": TopicState(paused=True)}
    board.backlog.alerts = ["a"]
    board.backlog.answers, board.backlog.answered_at, board.backlog.error = False, time.time() - 66, "connection refused"
    board.write(last_refusal="SyntaxError: tasks.py, line 3\nforged line", quiet=True)
    with board.held():
        text = status(project)
    troubles = [line for line in text.splitlines() if line.startswith("! ")]
    assert text.index(troubles[-1]) < text.index("Pools")
    assert troubles == [
        "! quiet: no new jobs are taken until `jobsctl quiet --off`",
        "! the last reload was refused, generation 1 keeps running: SyntaxError: tasks.py, line 3; forged line",
        "! the backend has not answered for 1 m: connection refused",
        "! pool a: 4 workers in a row crashed soon after their start; next try in 16 m: killed by SIGSEGV",
        "! pool b: its workers cannot boot; next try in 16 m: ImportError: no shop",
        "! topic a: alert, 12,000 jobs are ready, the oldest for 11 m",
        "! topic b is paused until `jobsctl resume b`",
    ]


def test_a_housekeeper_that_hangs_with_the_backend_is_named(project, board):
    board.backlog.answered_at = time.time() - 200
    board.write()
    with board.held():
        assert f"answered for 3 m: the housekeeper (process {os.getpid()}) is waiting for it" in status(project)


def test_workers_that_need_a_look_come_first(project, board):
    board.worker("h-1")
    board.worker("h-2", phase=Phase.OFFLINE)
    board.worker("h-3", child="retiring", reason="max_age")
    board.worker("h-4", child="")
    with board.held():
        text = status(project)
    states = [row[2] for row in rows(text, "Workers")[1:]]
    assert sorted(states[:3]) == ["lost", "offline", "retiring"]
    assert states[3] == "idle"
    assert "retiring  max_age" in text
    assert "! 1 worker cannot reach the backend" in text


def test_a_silent_worker_is_reported_with_a_command_to_inspect_it(project, board):
    project.configure('lease = "2s"')
    worker = board.worker("h-1", pid=4321)
    worker._map[32:40] = b"\0" * 8  # its last heartbeat was at boot
    with board.held():
        text = status(project)
    assert "! worker 4321 (default) has been silent for " in text
    assert "`jobsctl stack 4321` shows why" in text


def test_crashes_are_shown_newest_first_with_the_running_job(project, board):
    now = time.time()
    board.supervisor.crashes = [
        Crash(now - 3000, "h-1", 11, "default", "killed by SIGKILL", "SIGKILL", None, 0, []),
        Crash(now - 200, "h-2", 12, "default", "killed by SIGSEGV", "SIGSEGV", None, 10**9, ["a 1", "b 2", "c 3"]),
    ]
    board.write(crashed=17)
    with board.held():
        text = status(project)
    assert "Crashes (17 in all)\n  3 m ago: worker 12 (default): killed by SIGSEGV, peak memory 1.0 GB; ran a 1, b 2" in text
    assert "b 2 and 1 more\n" in text
    assert text.index("worker 12") < text.index("worker 11")


# -- much of everything --------------------------------------------------------------------------


def test_200_workers_stay_readable(project, board):
    for number in range(200):
        worker = board.worker(f"h-{number}", pid=5000 + number)
        if number % 2:
            worker.begin(run("tasks.send", ago=number, job_id=ID))
    with board.held():
        text = status(project)
        assert len(text.splitlines()) < 50
        assert [row[0] for row in rows(text, "Workers")[1:-1]] == [str(number) for number in range(5199, 5179, -2)]
        assert "and 190 more: 100 idle, 90 busy" in text
        assert len(rows(status(project, "--all"), "Workers")) == 201


def test_5000_jobs_in_one_worker_stay_readable(project, board):
    worker = board.worker("h-1", mode="async", slots=5000)
    for number in range(5000):
        worker.begin(run("tasks.send", ago=number / 10, job_id=f"id-{number}"))
    with board.held():
        text = status(project)
    assert "5,000 jobs 8 m" in text
    assert rows(text, "Running longest")[1][3] == "id-4999"
    assert "and 4,990 more\n" in text


def test_a_job_of_that_name_cannot_forge_lines_or_colours(project, board):
    board.worker("h-1").begin(run("a\x1b[31m\nb", job_id="x\ny"))
    with board.held():
        text = status(project)
    assert "\x1b" not in text
    assert "a\\x1b[31m\\nb" in text
