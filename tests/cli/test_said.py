"""Texts that a tired operator reads at night: tables, ids, plurals, names, and the stack of a hanging process."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from jobs_core import units
from jobs_core.cli import main as command_line
from jobs_core.cli import output, stack
from jobs_core.escapes import in_one_line
from jobs_core.scoreboard.state import PoolState, TopicState

from ..support.board import FakeBoard
from ..support.project import Project

REPOSITORY = Path(__file__).parents[2]
LONG_NAME = "shop.orders.invoices.send_reminder_to_customer"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch):
    """Print as on a terminal with this many columns."""

    def of(columns: int) -> dict[str, str]:
        monkeypatch.setattr(output, "on_terminal", lambda: True)
        return {"COLUMNS": str(columns), "NO_COLOR": "1"}

    return of


def bury(project: Project, *texts: str, topic: str = "default") -> list[str]:
    """Create dead letters, without a worker."""
    app = project.app()
    ids = [project.push("fail", text, topic=topic) for text in texts]
    app.operate(lambda backend: backend.discard(ids, "no\nlonger wanted"))
    return ids


# -- ids and tables -----------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [40, 80, 100, 200])
def test_ids_are_never_broken_nor_cut_whatever_the_width(project: Project, terminal, columns: int):
    here = terminal(columns)
    ids = bury(project, "a", "b", topic="a.topic.with.a.long.name.that.nobody.reads")
    project.push("nap", 1.0)
    waiting = project.push("fail", "c" * 100)
    for command in ("dead list", "list default"):
        lines = project.here(*command.split(), **here).splitlines()
        for job_id in ids if command == "dead list" else [waiting]:
            assert sum(line.startswith(job_id) for line in lines) == 1, lines
        if columns >= 80:
            assert max(map(len, lines)) <= columns, lines


@pytest.mark.parametrize("columns", [20, 60, 80, 100, 120, 300])
def test_a_row_is_one_line_and_cells_without_room_follow_below_it_by_name(columns: int):
    names = ["id", "topic", "job", "since", "attempts", "reason", "last error"]
    row = [
        "0198c5b2-1111-7000-8000-000000000001",
        "mail",
        LONG_NAME,
        "2026-11-26 03:00:00",
        "12",
        "failed",
        "ValueError: " + "x" * 90,
    ]
    lines = output.fitted(names, [row, row], columns)
    firsts = [line for line in lines if line.startswith(row[0])]
    assert len(firsts) == 2
    assert all(len(line) <= columns for line in firsts) or columns < len(row[0])
    if columns >= 80:
        assert all(row[3] in line for line in firsts), "times are whole"
        assert "ValueError" in "\n".join(lines)


def test_wide_characters_keep_columns_in_line():
    lines = output.fitted(["name", "n"], [["日本語", "1"], ["abc", "22"]], 80)
    assert lines == ["name     n", "日本語   1", "abc     22"]


@pytest.mark.parametrize("command", ["show", "why", "result", "cancel", "dead show", "dead retry", "dead drop --yes"])
def test_the_beginning_of_an_id_is_enough_where_it_is_that_of_one_alone(project: Project, command: str):
    dead = command.startswith("dead")
    made = bury(project, "x")[0] if dead else project.push("note", "x")
    code = {"result": 1}.get(command, 0)
    for beginning in (made, made[:20]):
        if beginning == made and command not in ("show", "why", "result", "dead show"):
            continue  # the next one would not find it
        text = project.here(*command.split(), beginning, code=code)
        assert "unknown" not in text
        assert "unknown job" not in text
    assert "unknown job" in project.here("show", "0000", code=1)


@pytest.mark.parametrize("command", ["show", "why", "result", "cancel", "dead show", "dead retry", "dead drop --yes"])
def test_the_beginning_of_several_ids_is_refused_with_those_and_does_nothing(project: Project, command: str):
    ids = bury(project, "x", "y") if command.startswith("dead") else [project.push("note", text) for text in "xy"]
    begin = ids[0][:6]
    text = project.here(*command.split(), begin, code=2)
    assert f"{begin} matches several ids: " in text
    assert all(job_id in text for job_id in ids)
    counts = json.loads(project.here("topics", "--json"))["default"]
    assert counts["ready"] + counts["dead"] == 2


def test_an_id_that_is_chosen_and_the_beginning_of_another_is_itself(project: Project):
    app = project.app()
    for name in ("order-1", "order-12"):
        app.operate(lambda backend, name=name: backend.push([outgoing(app, name)], name))
    assert "order-12" not in project.here("show", "order-1")
    assert "order-1 is the" not in project.here("cancel", "order-1")
    assert "order-12" in project.here("show", "order-12")


def outgoing(app, job_id):
    from jobs_core.backends.base import Outgoing
    from jobs_core.message import new_message

    made = app.outgoing(new_message("tasks.note", "default", ("x",), {}))
    return Outgoing(job_id, "default", made.payload)


def test_results_are_found_by_a_beginning_too(project: Project):
    made = project.push("add", 1)
    project.worker("--drain").wait()
    assert project.here("result", made[:18]) == "3\n"


def test_backends_without_a_search_examine_only_the_first_jobs_of_each_topic(app):
    from jobs_core.backends.base import Backend

    ids = [f"0198-{n}" for n in range(3)]
    app.operate(lambda backend: backend.push([outgoing(app, job_id) for job_id in ids], "r"))
    found = app.operate(lambda backend: Backend.find_ids(backend, "0198-", 2))
    assert len(found) == 2
    assert app.operate(lambda backend: backend.find_ids("0198-1", 9)) == ["0198-1"]


# -- words -----------------------------------------------------------------------------------------


def test_one_is_and_two_are():
    assert [units.are(n, "job") for n in (0, 1, 2, 1200)] == ["0 jobs are", "1 job is", "2 jobs are", "1,200 jobs are"]
    assert units.count(1, "entry", "entries") == "1 entry"


def test_once_twice_and_so_many_times():
    assert [units.times(n) for n in (0, 1, 2, 3, 1200)] == ["0 times", "once", "twice", "3 times", "1,200 times"]


PLURALS = "times jobs workers messages attempts entries letters topics replicas characters stacks tasks errors nodes"


def test_a_number_that_may_be_one_is_counted_by_the_one_helper():
    """None of our texts writes a plural in brackets after a number: `count`, `are` and `times` of units.py choose the form."""
    wrong = re.compile(r"\{(?!_?[A-Z]{2})[^{}]*\} (more |waiting )?(" + PLURALS.replace(" ", "|") + r")\b")
    allowed = {
        "{config} topics", "of 1 to {most} characters",
        "{workers:,} workers in pool",
        "with more than {looked:,} jobs", "no {state} jobs in", "no {self._state.value} jobs in",
        "all {which} jobs of", "has {len(key):,} characters",
        "if line.running_count > 1", "of {len(errors)} errors",
    }  # fmt: skip
    for package in (REPOSITORY / "core/src", *(REPOSITORY / "plugins").glob("*/src")):
        for path in package.rglob("*.py"):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if wrong.search(line):
                    assert any(text in line for text in allowed), f"{path}:{number}: {line.strip()}"


@pytest.mark.parametrize("called", ["manage.py jobs", "flask jobs"])
def test_inside_a_framework_s_command_line_advice_names_its_commands(project: Project, called: str, monkeypatch):
    made = project.push("note", "x")
    for arguments in (
        ["status"],
        ["why", made],
        ["result", made],
        ["run"],
        ["nosuch"],
        ["stack", "--help"],
        ["--help"],
        ["dead", "--help"],
    ):
        plain = project.here(*arguments, code=None)
        inside = project.here(*arguments, code=None, called=called)
        assert "jobsctl" not in inside, inside
        normal = re.sub(r"\s+", " ", plain).replace("jobsctl", called)
        assert re.sub(r"\s+", " ", inside) == normal
    assert "`jobsctl start` starts it" in project.here("status", code=3), "and nothing of it stays"


def test_output_for_other_programs_stays_unchanged(project: Project):
    assert project.here("completion", "bash") == project.here("completion", "bash", called="manage.py jobs")


def test_every_command_counts_in_good_english(project: Project):
    said: list[str] = []
    for number in (1, 2):
        ids = bury(project, *"ab"[:number])
        said.append(project.here("dead", "retry", *ids))
        said.append(project.here("purge", "default", "--yes"))
        bury(project, *"ab"[:number])
        said.append(project.here("dead", "drop", "--topic", "default", "--yes"))
        said.append(project.here("dead", "retry", *(f"0000-{n}" for n in range(number)), code=1))
        (project.root / "lines").write_text('["x"]\n' * number)
        said.append(project.here("push", "tasks.note", "--json", "lines"))
        said.append(project.here("check"))
        project.here("purge", "default", "--yes")
    text = "".join(said)
    for good in (
        "1 job is ready again", "2 jobs are ready again", "1 job deleted", "2 jobs deleted", "1 dead letter deleted",
        "2 dead letters deleted", "1 job enqueued", "2 jobs enqueued",
        "1 waiting message fits this code", "2 waiting messages fit this code",
    ):  # fmt: skip
        assert good in text, good
    assert not re.search(r"\b1 (\w+ )?(jobs|letters|messages|workers|entries)\b|\b1 \w+ are\b|\b2 \w+ is\b", text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("first\nsecond", "first; second"),
        ("cannot boot:\n  Traceback\n\nValueError", "cannot boot: Traceback; ValueError"),
        ("\n\n", ""),
        ("tab\there\x1b[31m", "tab\\there\\x1b[31m"),
    ],
)
def test_several_lines_are_clauses_of_one(text: str, shown: str):
    assert in_one_line(text) == shown


def test_no_new_line_is_written_out_where_people_read(project: Project, terminal):
    here = terminal(100)
    board = FakeBoard(project.root / ".jobs")
    board.supervisor.pools = [
        PoolState("default", ["default"], "sync", 1, 1, 1, 1, failures=3, cannot_boot=True, last_error="Traceback:\n  x\nboom")
    ]
    board.write(last_refusal="jobs.toml: a\njobs.toml: b")
    dead = bury(project, "x")[0]
    with board.held():
        for command in ("status", "top --once --interval 0.05", "why " + dead, "show " + dead, "dead list", "result " + dead):
            text = project.here(*command.split(), code=1 if command.startswith("result") else 0, **here)
            assert "\\n" not in text, command
    board.close()


@pytest.mark.parametrize(
    "command",
    ["pause defualt", "resume defualt", "purge defualt --yes", "list defualt", "dead list defualt",
     "dead retry --yes --topic defualt", "dead drop --yes --topic defualt"],
)  # fmt: skip
def test_an_unknown_topic_is_questioned_with_the_nearest_name(project: Project, command: str):
    for _ in range(2):  # also if it was paused by mistake before
        text = project.here(*command.split())
    assert "topic defualt is not configured and holds no jobs; did you mean default?" in text
    assert "not configured" not in project.here(*command.replace("defualt", "default").split())


def test_a_topic_that_holds_jobs_is_not_doubted(project: Project):
    project.push("note", "x", topic="elsewhere")
    assert "not configured" not in project.here("pause", "elsewhere")


def test_topics_distinguish_configured_from_running_pools(project: Project):
    project.configure("[pools.mail]\ntopics = ['mail']")
    assert json.loads(project.here("topics", "--json"))["mail"]["workers"] is None
    assert "mail\tnot running\t" in project.here("topics")
    board = FakeBoard(project.root / ".jobs")
    board.supervisor.pools = [PoolState("mail", ["mail"], "sync", 1, 1, 1, 1), PoolState("old", ["past"], "sync", 1, 1, 1, 1)]
    board.worker("h-1", pool="mail")
    board.worker("h-2", pool="old")
    project.push("note", "x", topic="past")
    project.push("note", "x", topic="never")
    with board.held():
        found = json.loads(project.here("topics", "--json"))
        lines = project.here("topics")
    board.close()
    assert {name: (row["pools"], row["workers"]) for name, row in found.items()} == {
        "mail": (["mail"], 1), "past": ([], 1), "never": ([], 0)
    }  # fmt: skip
    assert "none\t1 worker\t" in lines
    assert "none\tno worker\t" in lines


def test_status_marks_dead_letters_without_an_alarm(project: Project):
    board = FakeBoard(project.root / ".jobs")
    board.worker("h-1")
    board.backlog.topics = {"mail": TopicState(dead=1), "email": TopicState(dead=3, ready=1), "default": TopicState(ready=1)}
    board.write()
    with board.held():
        text = project.here("status")
        found = json.loads(project.here("status", "--json"))
    board.close()
    assert "! topic email: 3 dead letters, see `jobsctl dead groups email`" in text
    assert "! topic mail: 1 dead letter, see `jobsctl dead groups mail`" in text
    assert re.search(r"\nemail +1 .* dead letters, not served here|\nemail +1 .* dead letters", text)
    assert not re.search(r"\ndefault +1 .*dead", text.split("Topics")[1])
    assert found["troubles"] == []
    assert len(found["notes"]) == 2


# -- help ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), *((name,) for name in command_line.OURS), ("dead", "list"), ("alert", "test")])
def test_command_help_equals_the_help_option(project: Project, words: tuple[str, ...]):
    assert project.here("help", *words) == project.here(*words, "--help")


@pytest.mark.parametrize("words", [("nope",), ("dead", "nope"), ("status", "nope")])
def test_help_for_an_unknown_command_says_that_it_is_unknown(project: Project, words: tuple[str, ...]):
    assert "nope" in project.here("help", *words, code=2)


# -- stacks ----------------------------------------------------------------------------------------

DUMP = """Current thread 0x0000000000000001 (most recent call first):
  File "/usr/lib/python3/socket.py", line 7 in recv
  File "/srv/site-packages/jobs_core/handle.py", line 3 in result
  File "/srv/shop/tasks.py", line 12 in charge
  File "/srv/site-packages/jobs_core/worker/surroundings.py", line 60 in run
  File "/srv/core/src/jobs_core/worker/executors/sync.py", line 44 in _run
  File "<frozen runpy>", line 88 in _run_code

Thread 0x0000000000000002 (most recent call first):
  File "/srv/site-packages/jobs_core/worker/courier.py", line 100 in run
  File "THREADING", line 1 in _bootstrap

== thread 0x0000000000000001 MainThread
== thread 0x0000000000000002 jobs-courier
== tasks 3 (most recent call first)
2 tasks:
  File "ASYNCIO/tasks.py", line 600 in sleep
  File "/srv/shop/tasks.py", line 30 in fetch
  File "/srv/site-packages/jobs_core/worker/executors/tasks.py", line 9 in _run
1 task, running now:
  File "/srv/site-packages/jobs_core/worker/executors/tasks.py", line 20 in _serve
== end
"""


def dump() -> str:
    import asyncio
    import threading

    return DUMP.replace("THREADING", threading.__file__).replace("ASYNCIO", asyncio.__path__[0])


def test_the_stack_begins_with_the_job_and_ends_where_ours_begins():
    lines = stack.readable(dump()).splitlines()
    assert lines[0] == "Current thread MainThread (0x0000000000000001) (most recent call first):"
    assert [line.rpartition(" in ")[2] for line in lines[1:4]] == ["recv", "result", "charge"]
    assert lines[4] == "  … and 3 frames below, of jobs-core and Python"
    assert lines[5] == "threads that run no code of the application: jobs-courier (--all shows them)"
    assert "courier.py" not in "\n".join(lines)
    tasks = lines[lines.index("Asyncio tasks: 3 (most recent call first)") :]
    assert [line.rpartition(" in ")[2] for line in tasks[2:4]] == ["sleep", "fetch"]
    assert "of the application: 1 task, running now" in tasks[-1]


def test_all_shows_every_frame():
    text = stack.readable(dump(), everything=True)
    assert text.count("  File ") == dump().count("  File ")
    assert "== " not in text
