"""The lines of ready jobs with limits or fair keys, and the choice between them; `backends/limits.py` has the rules.

Every ranking corrects its order when it is looked at, so that a turn or a new head costs O(log) however many lines it moves.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar

from ..base import State
from ..flows import SLICE
from ..limits import LOOKED_AT, Lines, key_limit
from .limits import Limits
from .records import Job

K = TypeVar("K")
Order: TypeAlias = "tuple[float, ...]"
Plain: TypeAlias = "list[tuple[int, float, int, Job]]"


class Ranking(Generic[K]):
    """A set whose first member is found in O(log). A member whose order becomes lower has to be added again."""

    def __init__(self, order: Callable[[K], Order]) -> None:
        self.members: set[K] = set()
        self._order = order
        self._heap: list[tuple[Order, int, K]] = []

    def add(self, member: K) -> None:
        self.members.add(member)
        heapq.heappush(self._heap, (self._order(member), id(member), member))
        if len(self._heap) > 2 * len(self.members) + 16:  # entries of members that left
            self._heap = [(self._order(each), id(each), each) for each in self.members]
            heapq.heapify(self._heap)

    def discard(self, member: K) -> None:
        self.members.discard(member)
        if not self.members:
            self._heap.clear()

    def first(self) -> tuple[Order, K]:
        """Return the first of the members, of which there must be one, and its order."""
        while True:
            order, _, member = self._heap[0]
            if member not in self.members:
                heapq.heappop(self._heap)
                continue
            actual = self._order(member)
            if actual == order:
                return order, member
            heapq.heapreplace(self._heap, (actual, id(member), member))


def _age(job: Job) -> Order:
    return job.rank, job.ready_at, job.seq


class Line:
    """The ready jobs of a topic with the same limits, and in a fair topic with the same key and priority."""

    __slots__ = ("filed", "jobs", "key", "limits", "rank")

    def __init__(self, rank: int | None, key: str, limits: tuple[str, ...]) -> None:
        self.rank, self.key, self.limits = rank, key, limits  # rank None: of any priority
        self.jobs: Ranking[Job] = Ranking(_age)
        self.filed = ""  # the limit under which it is filed; empty if it is open


class TopicLines:
    """The lines of one topic."""

    def __init__(self, topic: str, limits: Limits, plain: Plain) -> None:
        self.topic, self.rules, self.rules_next = topic, Lines(), Lines()
        self.plain_taken = 0  # by the last take
        self.barred: list[Job] = []  # found by the last take: members of cancelled flows
        self.plain = plain  # the heap of the plain line
        self.lines: dict[tuple[int | None, str, tuple[str, ...]], Line] = {}
        self.opening: Ranking[str] = Ranking(lambda limit: self.filed[limit].first()[0])  # limits that may have room
        self.filed: dict[str, Ranking[Line]] = {}  # closed lines, by the limit under which they are filed
        self.bounded: Ranking[Line] = Ranking(self._order)  # open lines with a limit on concurrency
        self.unbounded: Ranking[Line] = Ranking(self._order)  # the other open ones
        self._limits = limits
        self.unseen: list[Line] = []  # lines that are not placed by the newest definitions yet
        self._groups: dict[tuple[int, str], set[Line]] = defaultdict(set)
        self._turns: dict[tuple[int, str], int] = {}
        self._last_turn = self._front = 0

    # -- order -----------------------------------------------------------------------------------

    def _order(self, line: Line) -> Order:
        (rank, ready_at, seq), _ = line.jobs.first()
        return rank, self._turn(int(rank), line.key), ready_at, seq

    def _turn(self, rank: int, key: str) -> int:
        return self._turns.get((rank, key), 0) if self.rules.fair else 0

    def limits_of(self, line: Line) -> tuple[str, ...]:
        return (*line.limits, key_limit(self.topic, line.key)) if self.rules.fair else line.limits

    # -- changes ---------------------------------------------------------------------------------

    def add(self, job: Job, now: float, *, first: bool = False) -> None:
        """Put a ready job into its line; `first` puts its key at the front of the turn."""
        fair = self.rules.fair
        where = (job.rank, job.key, job.limits) if fair else (None, "", job.limits)
        line = self.lines.get(where)
        if new := line is None:
            line = self.lines[where] = Line(*where)
            if fair:
                group = job.rank, job.key
                if not self._groups[group] and job.key:
                    self._last_turn += 1
                    self._turns[group] = self._last_turn
                self._groups[group].add(line)
        assert line is not None
        job.line = line
        better = new or _age(job) < line.jobs.first()[0]
        line.jobs.add(job)
        if first and fair:
            self.to_front(job.rank, job.key)
        if new:
            self._place(line, now)
        elif better:
            self._rank(line)

    def to_front(self, rank: int, key: str) -> None:
        """Put a key at the front of the turn."""
        self._front -= 1
        self._turns[rank, key] = self._front
        same = self._groups[rank, key] if key else [line for line in self.lines.values() if not line.key]
        for line in list(same):
            if line in self._where(line).members:
                self._rank(line)

    def remove(self, job: Job) -> None:
        """Take a job out of its line."""
        line = job.line
        assert line is not None
        job.line = None
        line.jobs.discard(job)
        if line.jobs.members:
            return
        del self.lines[line.rank, line.key, line.limits]
        self._unplace(line)
        if line.rank is not None:
            group = line.rank, line.key
            self._groups[group].discard(line)
            if not self._groups[group]:
                del self._groups[group]
                if line.key:
                    self._turns.pop(group, None)

    def _where(self, line: Line) -> Ranking[Line]:
        if line.filed:
            return self.filed[line.filed]
        return self.bounded if line in self.bounded.members else self.unbounded

    def _rank(self, line: Line) -> None:
        self._where(line).add(line)
        if line.filed in self.opening.members:
            self.opening.add(line.filed)

    def _place(self, line: Line, now: float) -> bool:
        """Put a line where it belongs now; return whether it is open."""
        limits = self.limits_of(line)
        blocked = self._limits.blocked(limits, now)
        if blocked:
            line.filed = blocked
            if blocked not in self.filed:
                self.filed[blocked] = Ranking(self._order)
            self.filed[blocked].add(line)
            self._limits.file(blocked, self.topic, now)
        else:
            (self.bounded if self._limits.bound(limits) else self.unbounded).add(line)
        return not blocked

    def _unplace(self, line: Line) -> None:
        limit, line.filed = line.filed, ""
        if not limit:
            self.bounded.discard(line)
            self.unbounded.discard(line)
            return
        self.filed[limit].discard(line)
        if not self.filed[limit].members:
            del self.filed[limit]
            self.opening.discard(limit)
            self._limits.unfile(limit, self.topic)

    def opens(self, limit: str) -> None:
        """Note that a limit may have room for lines of this topic."""
        if limit in self.filed:
            self.opening.add(limit)

    def place_all(self, rules: Lines, now: float) -> None:
        """Look at all lines anew after a change of definitions: at SLICE now, and at the others as the topic is served."""
        self.rules = rules
        self.unseen = list(self.lines.values())
        self.place_some(now)

    def place_some(self, now: float) -> None:
        """Look at up to SLICE of the lines that were not looked at since a change of definitions."""
        for line in self.unseen[-SLICE:]:
            if self.lines.get((line.rank, line.key, line.limits)) is line:
                self._unplace(line)
                self._place(line, now)
        del self.unseen[-SLICE:]

    # -- choice ----------------------------------------------------------------------------------

    def may_have_work(self, now: float, plain: int) -> bool:
        """Return whether it is worth while to reserve; `plain` is the number of jobs in the plain line."""
        return bool(self.unseen or self.opening.members or self.bounded.members or self.unbounded.members) or (
            plain > 0 and not self._limits.blocked(self._plain_limits(), now)
        )

    def _plain_limits(self) -> tuple[str, ...]:
        return (key_limit(self.topic, ""),) if self.rules.fair else ()

    def _plain_first(self, now: float) -> tuple[Order, Job] | None:
        heap = self.plain
        while heap:
            rank, ready_at, seq, job = heap[0]
            if job.is_plain(ready_at):
                if not job.plain and job.barred:
                    if len(self.barred) >= LOOKED_AT:
                        return None
                    self.plain_taken += 1
                    self._bar(job)
                    continue
                if self._limits.blocked(self._plain_limits(), now):
                    return None
                return (rank, self._turn(rank, ""), ready_at, seq), job
            heapq.heappop(heap)
        return None

    def take(self, limit: int, startable: int | None, now: float) -> tuple[list[Job], bool, int | None]:
        """Take up to `limit` jobs; return them, whether one was passed over, and how many more of a limit are startable."""
        taken: list[Job] = []
        overtook = False  # a job with a concurrency was not taken in its order
        looked = self.plain_taken = 0
        plain_bounded = self._limits.bound(self._plain_limits())
        while len(taken) < limit and looked < LOOKED_AT:
            plain = self._plain_first(now) if not (plain_bounded and startable == 0) else None
            choices: list[tuple[Order, Job | Line | str]] = [plain] if plain else []
            choices += [each.first() for each in (self.unbounded, self.opening) if each.members]
            if self.bounded.members and startable != 0:
                choices.append(self.bounded.first())
            if not choices:
                break
            order, chosen = min(choices, key=lambda choice: choice[0])
            overtook = overtook or (startable == 0 and bool(self.bounded.members) and self.bounded.first()[0] < order)
            if isinstance(chosen, str):
                looked += 1
                self._look(chosen, now)
            elif isinstance(chosen, Line):
                limits = self.limits_of(chosen)
                if self._bars_first(chosen) or self._closes(chosen, limits, now):
                    looked += 1
                    continue
                _, job = chosen.jobs.first()
                if startable is not None and chosen in self.bounded.members:
                    startable -= 1
                self.remove(job)
                self._hand_out(job, limits, chosen.key, now)
                taken.append(job)
            else:
                heapq.heappop(self.plain)
                self.plain_taken += 1
                chosen.state = State.RESERVED
                if startable is not None and plain_bounded:
                    startable -= 1
                self._hand_out(chosen, self._plain_limits(), "", now)
                taken.append(chosen)
        return taken, startable == 0 and (overtook or len(taken) < limit) and self._leaves_one(now, plain_bounded), startable

    def _closes(self, line: Line, limits: tuple[str, ...], now: float) -> bool:
        """File an open line anew if one of its limits has no room; return whether that is so."""
        if not self._limits.blocked(limits, now):
            return False
        self._unplace(line)
        self._place(line, now)
        return True

    def _bars_first(self, line: Line) -> bool:
        """Take the first job out of a line if it is a member of a cancelled flow; return whether it is."""
        _, job = line.jobs.first()
        if not job.barred:
            return False
        self.remove(job)
        self._bar(job)
        return True

    def _bar(self, job: Job) -> None:
        job.state = State.RESERVED
        self.barred.append(job)

    def _hand_out(self, job: Job, limits: tuple[str, ...], key: str, now: float) -> None:
        job.slots, job.plain = limits, False
        job.tokens = self._limits.take(limits, now)
        if self.rules.fair and (not key or (job.rank, key) in self._turns):
            self._last_turn += 1
            self._turns[job.rank, key] = self._last_turn

    def _look(self, limit: str, now: float) -> None:
        """Look at the first line that is filed under a limit, and open it or file it anew."""
        if self._limits.blocked((limit,), now):
            self.opening.discard(limit)
            self._limits.file(limit, self.topic, now)
        else:
            _, line = self.filed[limit].first()
            self._unplace(line)
            self._place(line, now)

    def _leaves_one(self, now: float, plain_bounded: bool) -> bool:
        if plain_bounded and self._plain_first(now):
            return True
        for _ in range(LOOKED_AT):
            if not self.bounded.members:
                return False
            _, line = self.bounded.first()
            if not self._closes(line, self.limits_of(line), now):
                return True
        return True

    @property
    def forgettable(self) -> bool:
        return not self.lines and not self.rules.fair
