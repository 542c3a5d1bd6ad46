"""The views of what happens now, and of the topics."""

from __future__ import annotations

import time
from collections.abc import Callable

from ...operating.formatting import age, count, rate
from ...operating.overview import STALE, waiting_columns
from ...scoreboard.state import Board, TopicState
from ..common import Context
from ..topics import count_topics
from .acting import Act
from .drawing import BAD, WARN, Column, Line
from .jobs import JobsView
from .page import Page
from .views import Desk, Row, TableView, TextView, View


class NowView(View):
    """What happens on this machine now; from the scoreboard alone, so that it works without a backend."""

    title = "now"
    reads = False

    def __init__(self, page: Page) -> None:
        super().__init__()
        self._page = page

    def lines(self, width: int, height: int) -> list[Line]:
        return self._page.lines(width, height)

    def press(self, key: str, desk: Desk, height: int) -> bool:
        return False


class TopicsView(TableView):
    """All topics. They are those of the scoreboard while the housekeeper counts them; else, the backend is asked."""

    title = "topics"
    keys = (
        ("Enter", "jobs"),
        ("d", "dead letters"),
        ("p", "pause or resume"),
        ("/", "filter"),
        ("o", "order"),
        ("t", "statistics"),
    )
    nothing = "no topic is configured or holds jobs"
    columns = (
        Column("topic"), Column("ready"), Column("in flight", 1), Column("scheduled", 5), Column("limited", 4),
        Column("waiting", 6), Column("dead", 1), Column("oldest", 2), Column("done/s", 7), Column("failed/s", 3),
        Column("note"),
    )  # fmt: skip

    def __init__(self, page: Page) -> None:
        super().__init__()
        self._page = page
        self._topics: dict[str, TopicState] = {}
        self._marks: dict[str, list[str]] = {}
        self._order = "name"

    def read(self, context: Context) -> None:
        topics = _fresh(self._page.board)
        if topics is not None:
            backlog = self._page.board.backlog
            assert backlog is not None
            marks = {name: ["alert"] for name in backlog.alerts}
            for name in backlog.unserved:
                marks.setdefault(name, []).append("no pool serves it")
        else:
            counts, paused = context.operate(lambda backend: count_topics(context, backend))
            topics = {
                name: TopicState(
                    number.ready, number.scheduled, number.reserved, number.dead, number.oldest_age, name in paused,
                    number.limited, number.waiting,
                )
                for name, number in counts.items()
            }  # fmt: skip
            marks = {}
        self._topics, self._marks = topics, marks

    def heading(self) -> str:
        paused = sum(topic.paused for topic in self._topics.values())
        words = [count(len(self._topics), "topic"), *([f"{paused:,} paused"] if paused else [])]
        rates = "; rates of this machine" if self._page.board.supervisor else ""
        return f"{', '.join(words)} by {self._order}" + (f", with {self.filter!r}" if self.filter else "") + rates

    def rows(self) -> list[Row]:
        held = waiting_columns(self._topics.values()).values()
        return [
            Row(name, self._cells(name, topic, "limited" in held, "members" in held), topic, self._style(name, topic))
            for name, topic in sorted(self._topics.items(), key=_ORDERS[self._order])
        ]

    def _counted(self, name: str) -> Callable[[], TopicState | None]:
        """Return what returns the counts of a topic from the scoreboard, None while nothing counts there."""
        return lambda: topics.get(name) if (topics := _fresh(self._page.board)) is not None else None

    def _style(self, name: str, topic: TopicState) -> str:
        return BAD if name in self._marks else WARN if topic.paused else ""

    def _cells(self, name: str, topic: TopicState, limited: bool, members: bool) -> tuple[str, ...]:
        rates = map(rate, self._page.rates_of(name)) if self._page.board.supervisor else ("", "")
        marks = [*(["paused"] if topic.paused else []), *self._marks.get(name, [])]
        return (
            name, f"{topic.ready:,}", f"{topic.reserved:,}", f"{topic.scheduled:,}", f"{topic.limited:,}" if limited else "",
            f"{topic.members:,}" if members else "", f"{topic.dead:,}",
            "" if topic.oldest_age is None else age(topic.oldest_age), *rates, ", ".join(marks),
        )  # fmt: skip

    def press(self, key: str, desk: Desk, height: int) -> bool:
        if key == "o":
            orders = list(_ORDERS)
            self._order = orders[(orders.index(self._order) + 1) % len(orders)]
            key = "home"
        return super().press(key, desk, height)

    def use(self, key: str, row: Row, desk: Desk) -> bool:
        topic: TopicState = row.item
        if key in ("enter", "right"):
            desk.open(JobsView(row.id, "ready" if topic.ready or not topic.reserved else "reserved", self._counted(row.id)))
        elif key == "d":
            desk.open(JobsView(row.id, "dead", self._counted(row.id)))
        elif key == "t":
            desk.open(TextView(f"statistics of topic {row.id}", ("stats", "--", row.id), again=False))
        elif key == "p":
            desk.act(paused(row.id, topic))
        else:
            return False
        return True


_ORDERS: dict[str, Callable[[tuple[str, TopicState]], tuple[float, str]]] = {
    "name": lambda each: (0.0, each[0]),
    "oldest": lambda each: (-(each[1].oldest_age or 0.0), each[0]),
    "ready": lambda each: (-float(each[1].ready), each[0]),
    "dead": lambda each: (-float(each[1].dead), each[0]),
}


def _fresh(board: Board) -> dict[str, TopicState] | None:
    """Return the counts of the scoreboard; None if the housekeeper of this machine has not counted lately."""
    backlog = board.backlog
    if board.supervisor is None or backlog is None or not backlog.answers:
        return None
    return backlog.topics if time.time() - min(backlog.at, backlog.answered_at) < STALE else None


def paused(name: str, topic: TopicState) -> Act:
    """Return the action that pauses a topic; or resumes it, if it is paused."""
    jobs = count(topic.ready + topic.limited, "ready job")
    if topic.paused:
        return Act(f"Workers may reserve its {jobs} at once.", ("resume", "--", name), f"Resume topic {name}?")
    about = f"Its {jobs} wait until it is resumed; the {count(topic.reserved, 'job')} in flight continue."
    return Act(about, ("pause", "--", name), f"Pause topic {name} on all machines?")
