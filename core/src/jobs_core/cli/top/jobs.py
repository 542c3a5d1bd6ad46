"""The views of jobs: those of a topic in one state, groups of dead letters, and the dead letters of a group."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Sequence

import click

from ...backends.base import Backend, JobRecord, State
from ...escapes import in_one_line
from ...operating.dead import Group
from ...operating.formatting import count
from ...operating.records import age, attempt, browse, name_of, owner_or_due
from ...operating.searching import Search
from ...scoreboard.state import TopicState
from ...units import shown_time
from ..common import Context
from ..dead import last_error
from ..dead_groups import RATE, groups, letters
from ..searching import found, typed
from ..types import TOPIC
from .acting import Act
from .drawing import Column, clipped
from .views import Desk, Keys, Row, TableView, TextView

MOST = 200
"""Most jobs that a view lists; a filter finds others."""

LONGEST_ID = 36
"""Width of an id in a table; longer ones, which applications choose, are shown in full with the details of the job."""

_STATES = (State.READY, State.LIMITED, State.WAITING, State.SCHEDULED, State.RESERVED, State.DEAD, State.DONE)


class _Jobs(TableView):
    """A list of jobs, with the keys that act on one of them."""

    interval = 1.0

    def __init__(self) -> None:
        super().__init__()
        self._search = Search()
        self._rows: list[Row] = []
        self._more = False  # whether there may be more jobs than are listed

    @abc.abstractmethod
    def records(self, context: Context, search: Search) -> list[JobRecord]:
        """Read up to MOST + 1 jobs."""

    def read(self, context: Context) -> None:
        search = self._search
        records = self.records(context, search)
        rows = [_row(context, record) for record in records[:MOST]]
        if search is self._search:  # the user has not changed it in the meantime
            self._rows, self._more = rows, len(records) > MOST

    def rows(self) -> list[Row]:
        return self._rows

    def filtered(self) -> list[Row]:
        return self._rows

    def listed(self) -> str:
        """Return how many jobs are listed, and why not others."""
        number = f"the first {MOST}; / finds others" if self._more else count(len(self._rows), "job")
        return (number if self.status.at else "") + (f", with {self.filter}" if self.filter else "")

    def label(self) -> str:
        return "text in the arguments, or job= key= error= since= until="

    def search(self, text: str, desk: Desk) -> str | None:
        try:
            self._search = typed(text)
        except ValueError as error:
            return str(error)
        self.filter, self._rows, self.status.at = text, [], 0.0
        desk.refresh()
        return None

    def use(self, key: str, row: Row, desk: Desk) -> bool:
        record: JobRecord = row.item
        if key in ("enter", "right"):
            desk.open(JobView(record, row.cells[0]))
        elif (act := action(key, record, row.cells[0])) is not None:
            desk.act(act)
        elif key == "w":
            desk.open(why(record))
        else:
            return False
        return True


class JobsView(_Jobs):
    """The jobs of a topic in one state."""

    title = "jobs"
    columns = (
        Column("job"), Column("id", 1), Column("priority", 6), Column("attempt", 4), Column("age", 2), Column("since", 5),
        Column("owner or due", 3), Column("error", 1), Column("key", 5),
    )  # fmt: skip

    def __init__(self, topic: str, state: str, counted: Callable[[], TopicState | None] = lambda: None) -> None:
        super().__init__()
        self._topic = topic
        self._state = State(state)
        self._all: Sequence[State] = [self._state]  # the states that the backend has
        self._counted = counted  # returns the counts of the topic, if they are known without a question to the backend

    def records(self, context: Context, search: Search) -> list[JobRecord]:
        def some(backend: Backend, most: int, offset: int) -> list[JobRecord]:
            return browse(backend, self._topic, state, most, offset)

        state = self._state
        self._all = context.operate(_states_of)
        return found(context, some, search, MOST + 1)

    def help(self) -> Keys:
        return (("Enter", "details"), ("s", "state"), *keys_of(self._state), ("/", "filter"), ("w", "why"))

    def heading(self) -> str:
        counts = self._counts()
        words = (f"{state.value} {counts[state]:,}" if counts.get(state) else state.value for state in self._states())
        shown = (f"[{word}]" if word.partition(" ")[0] == self._state.value else word for word in words)
        return f"{self._topic}: {self.listed()}   {'  '.join(shown)}"

    def _counts(self) -> dict[State, int]:
        topic = self._counted()
        if topic is None:
            return {}
        return {
            State.READY: topic.ready, State.LIMITED: topic.limited, State.WAITING: topic.members,
            State.SCHEDULED: topic.scheduled, State.RESERVED: topic.reserved, State.DEAD: topic.dead,
        }  # fmt: skip

    def _states(self) -> list[State]:
        """Return the states to choose from: those that few topics have only if there are such jobs."""
        counts = self._counts()
        rare = {state for state in (State.LIMITED, State.WAITING) if counts.get(state) == 0 and state is not self._state}
        return [state for state in self._all if state not in rare]

    def empty(self) -> str:
        nothing = f"no {self._state.value} jobs in {self._topic}; s shows the next state"
        return super().empty() if self.filter or not self.status.at else nothing

    def press(self, key: str, desk: Desk, height: int) -> bool:
        if key in ("s", "S"):
            states = self._states()
            self._state = states[(states.index(self._state) + (1 if key == "s" else -1)) % len(states)]
            self._rows, self.status.at, self.status.error = [], 0.0, ""
            desk.refresh()
            return True
        return super().press(key, desk, height)


class LettersView(_Jobs):
    """The dead letters of a group."""

    title = "dead letters"
    interval = 5.0
    keys = (("Enter", "details"), ("r", "retry"), ("x", "delete"), ("/", "filter"), ("w", "why"))
    columns = (
        Column("job"), Column("id", 1), Column("topic", 3), Column("attempt", 4), Column("since", 2), Column("error", 1),
    )  # fmt: skip

    def __init__(self, group: Group) -> None:
        super().__init__()
        self._group = group

    def records(self, context: Context, search: Search) -> list[JobRecord]:
        return list(itertools.islice(letters(context, None, search, self._group.of.id), MOST + 1))

    def heading(self) -> str:
        return f"{self.listed()}   group {self._group.of.id}: {_cause(self._group)}"

    def rows(self) -> list[Row]:
        return [
            Row(row.id, (*row.cells[:2], row.item.topic, row.cells[3], *row.cells[5:6], row.cells[7]), row.item)
            for row in self._rows
        ]

    def filtered(self) -> list[Row]:
        return self.rows()


class GroupsView(TableView):
    """The dead letters of all topics by what went wrong."""

    title = "dead"
    interval = 5.0
    keys = (
        ("Enter", "letters"), ("r", "retry the group"), ("R", "retry elsewhere or at a rate"), ("x", "delete the group"),
        ("/", "filter"),
    )  # fmt: skip
    nothing = "no dead letters"
    columns = (
        Column("letters"), Column("error"), Column("jobs", 2), Column("topics", 4), Column("last", 3), Column("first", 6),
        Column("place", 5), Column("group", 1),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._groups: list[Group] = []

    def read(self, context: Context) -> None:
        self._groups = groups(context, None, Search())

    def heading(self) -> str:
        letters_in_all = count(sum(group.count for group in self._groups), "dead letter")
        told = f"{letters_in_all} in {count(len(self._groups), 'group')}" if self.status.at else ""
        return told + (f", with {self.filter!r}" if self.filter else "")

    def rows(self) -> list[Row]:
        return [
            Row(
                group.of.id,
                (
                    f"{group.count:,}", _cause(group), _some(group.jobs), _some(group.topics), shown_time(group.last),
                    shown_time(group.first), group.of.place, group.of.id,
                ),
                group,
            )
            for group in self._groups
        ]  # fmt: skip

    def use(self, key: str, row: Row, desk: Desk) -> bool:
        group: Group = row.item
        if key in ("enter", "right"):
            desk.open(LettersView(group))
        elif key == "r":
            desk.act(Act(_cause(group), ("dead", "retry", "--group", group.of.id)))  # the command counts the letters, and asks
        elif key == "R":
            desk.prompt("retry the group with to=TOPIC rate=10/s", "", lambda text: _retry_with(group, text, desk))
        elif key == "x":
            desk.act(Act(_cause(group), ("dead", "drop", "--group", group.of.id)))
        else:
            return False
        return True


class JobView(TextView):
    """Everything about one job."""

    def __init__(self, record: JobRecord, name: str) -> None:
        command = ("dead", "show") if record.state is State.DEAD else ("show",)
        super().__init__(f"job {name} {record.id} of topic {record.topic}", (*command, "--", record.id))
        self._record = record
        self._name = name

    def read(self, context: Context) -> None:
        record = context.operate(self._now)
        if record is not None:
            self._record = record
            self.words = ("show", "--", record.id)
        super().read(context)

    def help(self) -> Keys:
        return (("↑↓", "scroll"), *keys_of(self._record.state), ("w", "why"))

    def _now(self, backend: Backend) -> JobRecord | None:
        return backend.get(self._record.id) if "lookup" in backend.features else None

    def press(self, key: str, desk: Desk, height: int) -> bool:
        if key == "w":
            desk.open(why(self._record))
        elif (act := action(key, self._record, self._name)) is not None:
            desk.act(act)
        else:
            return super().press(key, desk, height)
        return True


def why(record: JobRecord) -> TextView:
    """Return the view that explains a job."""
    return TextView(f"why {record.id}", ("why", "--", record.id), again=False)


def keys_of(state: State) -> Keys:
    """Return the keys that act on a job in this state."""
    if state is State.DEAD:
        return (("r", "retry"), ("x", "delete"))
    if state in (State.DONE, State.CANCELLED, State.UNKNOWN):
        return ()
    more = {State.SCHEDULED: (("n", "run now"),), State.RESERVED: (("C", "cancel by force"),)}
    return (("c", "cancel"), *more.get(state, ()))


def action(key: str, record: JobRecord, name: str) -> Act | None:
    """Return the action of a key on one job; None if the key, or the state of the job, has none."""
    job, state = f"{name} {record.id} of topic {record.topic}", record.state
    if key == "c" and state not in (State.DEAD, State.DONE, State.CANCELLED):
        running = "It is running: its worker is told, and interrupts it. A thread cannot be interrupted, and ends by itself."
        waits = f"It is {state.value}: it will not run."
        return Act(running if state is State.RESERVED else waits, ("cancel", "--", record.id), f"Cancel 1 job, {job}?")
    if key == "C" and state is State.RESERVED:
        about = (
            "If it does not end after timeout_grace, its worker is replaced; other jobs of this worker return to their topics."
        )
        return Act(about, ("cancel", "--force", "--", record.id), f"Cancel 1 running job by force, {job}?")
    if key == "n" and state is State.SCHEDULED:
        about = f"It is scheduled for {shown_time(record.due or 0.0)}: it becomes ready at once."
        return Act(about, ("dead", "retry", "--", record.id), f"Run 1 scheduled job now, {job}?")
    if key == "r" and state is State.DEAD:
        about = "It becomes ready, and its attempts begin anew."
        return Act(about, ("dead", "retry", "--", record.id), f"Run 1 dead letter again, {job}?")
    if key == "x" and state is State.DEAD:
        about = "Nothing can bring it back."
        return Act(about, ("dead", "drop", "--yes", "--", record.id), f"Delete 1 dead letter for good, {job}?")
    return None


def _row(context: Context, record: JobRecord) -> Row:
    error = last_error(record)
    reason = in_one_line(record.reason)
    told = f"{reason}: {error}" if error and reason not in ("", "failed") and not error.startswith(reason) else error or reason
    cells = (
        name_of(context.app, record), clipped(record.id, LONGEST_ID), str(record.priority or ""), str(attempt(record)),
        age(record),
        shown_time(record.since) if record.since and record.state in (State.DEAD, State.DONE) else "", owner_or_due(record),
        told, record.key,
    )  # fmt: skip
    return Row(record.id, cells, record)


def _states_of(backend: Backend) -> list[State]:
    lacking = {*([] if "history" in backend.features else [State.DONE])}
    queued = (*backend.queued_states, State.RESERVED, State.DEAD, State.DONE)
    return [state for state in _STATES if state in queued and state not in lacking]


def _retry_with(group: Group, text: str, desk: Desk) -> str | None:
    """Ask whether to retry a group in another topic, or at a rate, or both; return what is wrong with the text."""
    given = dict(word.partition("=")[::2] for word in text.split())
    if not given or not given.keys() <= {"to", "rate"}:
        return "expected to=TOPIC, rate=10/s, or both"
    words = ["dead", "retry", "--group", group.of.id]
    try:
        if "to" in given:
            words += ["--to", TOPIC.convert(given["to"], None, None)]
        if "rate" in given:
            RATE.convert(given["rate"], None, None)
            words += ["--rate", given["rate"], "--background"]  # the screen does not wait for it
    except click.UsageError as error:
        return error.message
    desk.act(Act(_cause(group), tuple(words)))
    return None


def _cause(group: Group) -> str:
    return in_one_line(f"{group.of.kind}: {group.of.message}" if group.of.message else group.of.kind)


def _some(names: set[str]) -> str:
    first = sorted(names)
    return ", ".join(first[:2]) + (f" and {len(first) - 2} more" if len(first) > 2 else "")
