"""The parts of `jobsctl top` that need no terminal: keys, tables, frames of every size, and how often views are read."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.cells import cell_len

from jobs_core.backends.base import JobRecord, State
from jobs_core.backends.sqlite import SqliteBackend
from jobs_core.cli.common import Context
from jobs_core.cli.searching import typed
from jobs_core.cli.top import reading
from jobs_core.cli.top.drawing import Column, clipped, table
from jobs_core.cli.top.jobs import JobsView, action
from jobs_core.cli.top.reading import Reader, Status
from jobs_core.cli.top.screen import Screen
from jobs_core.cli.top.terminal import END, names_of
from jobs_core.cli.top.views import _wrapped
from jobs_core.errors import BackendUnavailable
from jobs_core.operating.overview import Overview
from jobs_core.operating.searching import Search
from jobs_core.scoreboard.state import Backlog, Board, SupervisorState, TopicState

from ..support.inprocess import as_it_was


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("q2/", ["q", "2", "/"]),
        ("\x1b[A\x1b[B\x1bOA", ["up", "down", "up"]),
        ("\x1b[5~\x1b[6~\x1b[H\x1b[4~", ["page up", "page down", "home", "end"]),
        ("\x1b", ["escape"]),
        ("\x1bt", ["escape", "t"]),
        ("\x1b[200~", []),  # unknown keys mean nothing, and their parts are no letters
        ("\x1b[1;5C", []),
        ("é日\r\x7f", ["é", "日", "enter", "backspace"]),
        ("\x03", [END]),
        ("\x00\x01", []),
    ],
)
def test_what_a_terminal_sends_becomes_keys(text, keys):
    assert names_of(text) == keys


def test_a_narrow_table_leaves_out_the_least_important_columns():
    columns = [Column("name"), Column("id", 1), Column("age", 3), Column("error", 2)]
    rows = [("tasks.send", "01a21c9d-6b56-759b-bd3c-8ee8683de3a6", "2 h 5 m", "ValueError: no such customer")]
    assert "age" in table(columns, rows, 100)[0]
    assert "age" not in table(columns, rows, 76)[0]
    assert "error" in table(columns, rows, 76)[0]
    assert table(columns, rows, 50)[0].split() == ["name", "id"]


def test_a_text_is_cut_at_cells_and_not_at_characters():
    assert clipped("日本語", 6) == "日本語"
    assert clipped("日本語", 5) == "日本…"
    assert cell_len(clipped("日本語", 4)) <= 4


def test_long_lines_are_broken_at_spaces_and_lose_nothing():
    line = "  it never existed here, or it finished " + "x" * 50 + "日本語" * 20
    broken = _wrapped(line, 30)
    assert all(cell_len(part) <= 30 for part in broken)
    assert broken[0] == "  it never existed here, or"
    assert "".join(broken).replace(" ", "") == line.replace(" ", "")
    assert _wrapped("ab", 1) == ["a", "b"]
    assert _wrapped("", 10) == [""]


def screen():
    return Screen(SimpleNamespace(place=SimpleNamespace(run_dir=Path("/nowhere"))), 1.0)


@pytest.mark.parametrize("height", [1, 2, 3, 5, 10, 24, 60])
@pytest.mark.parametrize("width", [1, 5, 20, 40, 80, 200])
def test_every_view_fits_into_every_terminal(width, height):
    made = screen()
    topics = made._tabs[1]
    topics._topics = {
        f"{'überlang' * number}日本語-{number}": TopicState(10**9, paused=number % 2 == 0) for number in range(50)
    }
    jobs = JobsView("default", "ready")
    jobs._rows = []
    for view in [*made._tabs, jobs]:
        for happened in (Status(), Status(at=1.0), Status(at=time.time(), error="no\nconnection" * 50)):
            made._views, view.status = [view], happened
            for said in ("", "a message " * 30):
                made._message = said
                lines = made.frame(width, height)
                assert len(lines) <= height
                assert all(cell_len(line.text) <= width and "\n" not in line.text for line in lines)


def test_keys_do_nothing_where_there_is_nothing_to_act_on():
    made = screen()
    for view in made._tabs:
        made._views = [view]
        made.frame(80, 24)
        for key in (
            "up",
            "down",
            "page down",
            "home",
            "end",
            "enter",
            "p",
            "s",
            "a",
            "R",
            "r",
            "x",
            "c",
            "n",
            "d",
            "w",
            "t",
            "/",
        ):
            made._press(key)
            made._press("escape")
            made.frame(80, 24)
    assert made._doer.doing is None


@pytest.mark.parametrize("state", list(State))
def test_an_action_names_its_job_and_fits_its_state(state):
    record = JobRecord("-id", "email", state, due=1.0)
    acts = {key: act for key in "cCnrx" if (act := action(key, record, "tasks.send")) is not None}
    expected = {State.DEAD: "rx", State.SCHEDULED: "cn", State.RESERVED: "cC", State.DONE: "", State.CANCELLED: ""}.get(
        state, "c"
    )
    assert "".join(acts) == expected
    for act in acts.values():
        assert "tasks.send -id of topic email" in act.question
        assert act.typed.endswith(" -- -id")


def test_a_filter_of_jobs_is_the_search_of_the_commands():
    assert typed("job=send key=acme 'two words' error=x=y") == Search(job="send", key="acme", text="two words", error="x=y")
    assert typed("") == Search()
    assert typed("a=b") == Search(text="a=b")
    with pytest.raises(ValueError, match="expected a time"):
        typed("since=never")
    with pytest.raises(ValueError, match="No closing quotation"):
        typed("'open")


# -- what views read -------------------------------------------------------------------------------


def test_no_view_reads_more_jobs_because_there_are_more(project, monkeypatch):
    read = []
    browse = SqliteBackend.browse

    def counted(self, topic, state, limit, offset=0):
        found = browse(self, topic, state, limit, offset)
        read.append(len(found))
        return found

    monkeypatch.setattr(SqliteBackend, "browse", counted)
    project.push_many([("note", (number,), {}) for number in range(3000)])
    with as_it_was():
        context = Context(str(project.root / "jobs.toml"))
        made = screen()
        views = [*(tab for tab in made._tabs if tab.reads), JobsView("default", "ready"), JobsView("default", "dead")]
        for view in views:
            view.read(context)
        context.close()
    assert max(read) == 201
    assert sum(read) == 201


# -- how often views are read ----------------------------------------------------------------------


class Slow:
    """A view whose reading takes some time."""

    interval = 0.01

    def __init__(self, seconds, error=None):
        self.status = Status()
        self.begins = []
        self._seconds, self._error = seconds, error

    def read(self, context):
        self.begins.append(time.monotonic())
        time.sleep(self._seconds)
        if self._error:
            raise self._error


def reader_of(view, readings):
    """Let a reader read a view so often; return the reader."""
    enough = threading.Event()

    def wake():
        if len(view.begins) >= readings:
            enough.set()

    made = Reader(None, wake)
    made.start()
    made.show(view)
    assert enough.wait(30)
    return made


def test_the_backend_spends_at_most_a_twentieth_of_the_time_on_a_view():
    view = Slow(0.02)
    reader_of(view, 4).show(None)
    pauses = [after - before for before, after in itertools.pairwise(view.begins[1:])]  # a reading alone may be a standstill
    assert min(pauses) >= 0.02 / reading.SHARE * 0.99


def test_a_view_that_could_not_be_read_is_read_again_soon_and_says_why(monkeypatch):
    monkeypatch.setattr(reading, "AGAIN", 0.01)
    view = Slow(0.05, BackendUnavailable("no\nroute"))
    reader_of(view, 3).show(None)
    assert view.status.error == "no route"
    assert view.status.at == 0.0


def test_refresh_reads_at_once_even_during_a_reading():
    view = Slow(0.2)
    view.interval = 3600.0
    made = reader_of(view, 1)
    made.refresh()
    deadline = time.monotonic() + 30
    while len(view.begins) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    made.show(None)


@pytest.mark.parametrize(("topics", "lines"), [(5, 5), (6, 6), (7, 6), (300, 6)])
def test_a_problem_of_many_topics_leaves_room_on_the_page(topics, lines):
    backlog = Backlog(pid=1, at=0.0, answered_at=0.0)
    backlog.topics = {f"t{n:03}": TopicState(ready=1, paused=True) for n in range(topics)}
    backlog.unserved = {name: [] for name in backlog.topics}
    now = time.time()
    board = Board(supervisor=SupervisorState(pid=7, host="web1", version="1", started_at=now, generation=1, state="serving"))
    board.supervisor.written_at, board.backlog = now, backlog
    view = Overview(board)
    told = [text for text in view.troubles() if "pool" in text]
    assert len(told) == lines
    assert sum("paused" in text for text in view.troubles()) == lines
    if topics > 6:
        assert told[-1] == f"{topics - 5} more topics have jobs and are served by no pool; `jobsctl topics` lists all"
    assert len([text for text in view.troubles(most=None) if "no pool serves" in text]) == topics, "programs get all"
