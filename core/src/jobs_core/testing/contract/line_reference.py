"""A reference for limits, lines and turns that looks at all jobs each time, however slowly.

It does not say which jobs a reserve returns, but whether those that it returned were to be. So it leaves open what the
definitions in `backends/limits.py` leave open: the order of members that became ready in the same step, and the turn of a key
whose job was due while nobody looked.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ...backends.limits import KEY_LIMIT, Limit, Lines, key_limit, name_of, tat_under


@dataclass(eq=False)
class Entry:
    """A job that is ready, scheduled or reserved."""

    id: str
    topic: str
    rank: int
    key: str
    limits: tuple[str, ...]
    seq: int  # 0 for members of flows: those that become ready together have no order
    state: str = ""  # ready, scheduled or reserved
    since: float = 0.0  # when it became ready last
    due: float = 0.0  # scheduled: until when
    line_key: str = ""  # the key whose turn it uses
    slots: tuple[str, ...] = ()
    tokens: list[tuple[str, float]] = field(default_factory=list)
    vague: bool = False  # it was claimed before it was due: no definition says how old it is if it returns
    counter: int = 0  # scheduled: the counter of turns at that time

    @property
    def age(self) -> tuple[float, int]:
        return self.since, self.seq


class LineReference:
    """The jobs of a few topics that could run, and their limits."""

    def __init__(self) -> None:
        self.now = 0.0
        self.entries: dict[str, Entry] = {}
        self.defined: dict[str, Limit] = {}
        self.overrides: dict[str, Limit] = {}
        self.rules: dict[str, Lines] = {}
        self.paused: set[str] = set()
        self.murky: set[str] = set()
        """Topics that became fair, or ceased to be, while they held jobs: their order and their keys are not compared."""
        self._tat: dict[str, float] = defaultdict(float)
        self._closed: dict[str, float] = defaultdict(float)
        self._turns: dict[tuple[str, int, str], tuple[float, float]] = {}  # not before the one, and not after the other
        self._counter = self._front = 0

    # -- limits ------------------------------------------------------------------------------------

    def definition(self, limit: str) -> Limit | None:
        if limit.startswith(KEY_LIMIT):
            rules = self._rules(limit[len(KEY_LIMIT) :].partition(":")[0])
            return Limit(rules.max_per_key) if rules.fair and rules.max_per_key is not None else None
        return self.overrides.get(limit) or self.overrides.get(name_of(limit)) or self.defined.get(name_of(limit))

    def used(self, limit: str) -> int:
        return sum(limit in entry.slots for entry in self.entries.values())

    def has_room(self, limit: str) -> bool:
        rules = self.definition(limit)
        if rules is not None and rules.concurrency is not None and self.used(limit) >= rules.concurrency:
            return False
        if rules is not None and rules.interval is not None:
            ahead = tat_under(rules, self._tat[limit], self.now) - self.now
            if ahead > (rules.burst - 1) * rules.interval:
                return False
        return self._closed[limit] <= self.now

    def close(self, limit: str, seconds: float) -> None:
        self._closed[limit] = max(self._closed[limit], self.now + seconds)

    def reset(self, limit: str) -> None:
        """End an override, and the closures by jobs."""
        self.overrides.pop(limit, None)
        for each in self._closed:
            if each == limit or (":" not in limit and name_of(each) == limit):
                self._closed[each] = 0.0

    def set_rules(self, topic: str, rules: Lines) -> None:
        """Serve a topic by other rules."""
        if rules.fair != self._rules(topic).fair and any(entry.topic == topic for entry in self.entries.values()):
            self.murky.add(topic)
        self.rules[topic] = rules

    def _rules(self, topic: str) -> Lines:
        return self.rules.get(topic, Lines())

    def counted(self, entry: Entry) -> tuple[str, ...]:
        """Return the limits in which a job counts if it is reserved now."""
        fair = self._rules(entry.topic).fair
        return (*entry.limits, key_limit(entry.topic, entry.line_key)) if fair else entry.limits

    def _is_bounded(self, entry: Entry) -> bool:
        found = map(self.definition, self.counted(entry))
        return any(rules is not None and rules.concurrency is not None for rules in found)

    # -- jobs --------------------------------------------------------------------------------------

    def named(self, state: str, topics: Collection[str] | None = None) -> set[str]:
        found = self.entries.values()
        return {entry.id for entry in found if entry.state == state and (topics is None or entry.topic in topics)}

    def start(self, jobs: Iterable[tuple[Entry, float]], *, together: bool = False) -> None:
        """Add jobs that are ready, or due after a delay; `together` if their order is nobody's business."""
        first, entered = self._counter, []
        for entry, delay in jobs:
            entry.since = entry.since if entry.id in self.entries else self.now
            self.entries[entry.id] = entry
            if delay > 0:
                self.schedule(entry, delay)
            else:
                self.make_ready(entry, self.now)
                entered.append(entry)
        if together:
            for entry in entered:
                group = entry.topic, entry.rank, entry.line_key
                if self._turns[group][0] > first:
                    self._turns[group] = (first + 1, self._counter)

    def schedule(self, entry: Entry, delay: float) -> None:
        entry.state, entry.due, entry.counter = "scheduled", self.now + delay, self._counter

    def make_ready(self, entry: Entry, since: float, *, first: bool = False) -> None:
        """Put a job into its line; `first` if its key is to be the first in turn, with others of the same step."""
        entry.line_key = entry.key if self._rules(entry.topic).fair else ""
        group = entry.topic, entry.rank, entry.line_key
        if not any(each.state == "ready" and self._group(each) == group for each in self.entries.values()):
            self._counter += 1  # jobs without a key may come back to the turn that they had
            low = self._turns.get(group, (0.0, 0.0))[0] if not entry.line_key else self._counter
            self._turns[group] = (low, self._counter)
        entry.state, entry.since = "ready", since
        if first and self._rules(entry.topic).fair:
            self._turns[group] = (self._front, self._front)

    def new_step(self, now: float) -> None:
        """Begin a step: jobs that are due became ready, at a time at which others may have come."""
        self.now = now
        self._front -= 1
        for entry in sorted(self.entries.values(), key=lambda entry: (entry.due, entry.seq)):
            if entry.state == "scheduled" and entry.due <= now:
                group = entry.topic, entry.rank, entry.key if self._rules(entry.topic).fair else ""
                is_new = not any(each.state == "ready" and self._group(each) == group for each in self.entries.values())
                low = self._turns.get(group, (0.0, 0.0))[0] if not group[2] else entry.counter
                self.make_ready(entry, entry.due)
                if is_new:
                    self._turns[group] = (low, math.inf)
        busy = {entry.topic for entry in self.entries.values() if entry.state != "scheduled"}
        self.murky &= busy

    def _group(self, entry: Entry) -> tuple[str, int, str]:
        return entry.topic, entry.rank, entry.line_key

    def free(self, job_id: str, *, back: bool) -> None:
        """End a reservation; give its tokens `back` if it was not started."""
        entry = self.entries[job_id]
        for limit, interval in entry.tokens if back else ():
            self._tat[limit] -= interval
        entry.slots, entry.tokens = (), []

    # -- reserve -----------------------------------------------------------------------------------

    def reserve(self, taken: Sequence[str], topics: Sequence[str], limit: int, startable: int | None) -> None:
        """Check that these are the jobs that a reserve had to return."""
        assert len(taken) <= limit
        for job_id in taken:
            entry = self.entries.get(job_id)
            assert entry is not None, f"{job_id} was delivered, but cannot run"
            assert entry.state == "ready", f"{job_id} was delivered, but is {entry.state}"
            assert entry.topic in topics
            assert entry.topic not in self.paused, f"{job_id} was delivered from a paused topic"
            for earlier in topics[: topics.index(entry.topic)]:
                assert not self._left(earlier, startable), f"{job_id} came before jobs of {earlier}"
            self._check(entry, startable)
            if startable is not None and self._is_bounded(entry):
                startable -= 1
            self.take(entry)
        if len(taken) < limit:
            for topic in topics:
                left = self._left(topic, startable)
                assert not left, f"{sorted(entry.id for entry in left)} were not delivered, although they had room"

    def _left(self, topic: str, startable: int | None) -> list[Entry]:
        """Return what a reserve would still have to return."""
        doubtful = topic in self.murky and self._rules(topic).max_per_key is not None
        return [] if doubtful or topic in self.paused else self._candidates(topic, startable)

    def _candidates(self, topic: str, startable: int | None) -> list[Entry]:
        return [
            entry
            for entry in self.entries.values()
            if entry.state == "ready"
            and entry.topic == topic
            and all(map(self.has_room, self.counted(entry)))
            and not (startable == 0 and self._is_bounded(entry))
        ]

    def _check(self, entry: Entry, startable: int | None) -> None:
        full = [limit for limit in entry.limits if not self.has_room(limit)]
        assert not full, f"{entry.id} was delivered, but {full} had no room"
        if entry.topic in self.murky:
            return
        candidates = self._candidates(entry.topic, startable)
        assert entry in candidates, f"{entry.id} was delivered, but its key had no room, or it is not startable"
        same = [each for each in candidates if each.rank == entry.rank]
        assert min(each.rank for each in candidates) == entry.rank, f"{entry.id} came before a higher priority"
        if self._rules(entry.topic).fair:
            keys = {self._group(each) for each in same}
            turn = self._turns[self._group(entry)][0]
            assert all(turn <= self._turns[group][1] for group in keys), f"{entry.id} came out of turn: {self._turns}"
            same = [each for each in same if each.line_key == entry.line_key]
        older = [] if entry.vague else [each.id for each in same if each.age < entry.age and not each.vague]
        assert not older, f"{entry.id} came before {older}, which are older"

    def take(self, entry: Entry, *, claimed: bool = False) -> None:
        """Reserve a job: a claimed one neither counts nor uses a turn."""
        entry.vague = entry.vague or (claimed and entry.state == "scheduled")
        entry.state = "reserved"
        if claimed:
            return
        entry.slots = self.counted(entry)
        for limit in entry.slots:
            rules = self.definition(limit)
            if rules is not None and rules.interval is not None:
                self._tat[limit] = max(tat_under(rules, self._tat[limit], self.now), self.now) + rules.interval
                entry.tokens.append((limit, rules.interval))
        if self._rules(entry.topic).fair:
            self._counter += 1
            self._turns[self._group(entry)] = (self._counter, self._counter)

    def counts(self, topic: str) -> Mapping[str, int]:
        """Return the number of jobs by state."""
        return {state: len(self.named(state, (topic,))) for state in ("ready", "scheduled", "reserved")}
