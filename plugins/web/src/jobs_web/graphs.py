"""Flows as graphs: where each member stands, and which lines join them, as numbers that a template draws as SVG.

Members stand in rows: each below everything that it waits for. A graph has at most about MOST nodes, however large the flow is:
members of one stage, of a wide row, or of a long stretch in which nothing happens are drawn as one node with their counts.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from msgspec import Struct

from jobs_core.backends.flows import MemberStatus
from jobs_core.units import count

MOST = 60
"""Nodes that are drawn, about."""

MOST_BESIDE = 5
"""Nodes of one row."""

MOST_ROWS = 30
"""Rows that are drawn: in a longer chain, stretches in which nothing happens are folded."""

MOST_TARGETS = 20_000
"""Targets that are followed: in a flow with more of them, the last ones are left out, and the drawing is not complete."""

WIDTH, HEIGHT = 200, 48
"""The size of a node, in pixels."""

BESIDE, BELOW, EDGE, THIN = 22, 46, 10, 14
"""Pixels between nodes of a row, between rows, around everything, and for a line that passes a row."""

_LONGEST = 20  # characters of a name that fit into a node

GLYPHS = {
    "done": "✓", "dead": "✗", "cancelled": "–", "reserved": "▶", "ready": "●", "limited": "‖", "scheduled": "◷",
    "waiting": "○", "stuck": "!",
}  # fmt: skip
"""The sign of each state: states differ by more than their colour."""

WORDS = {"reserved": "running", "limited": "held by limits"}
"""States that have another name for people."""

_INTEREST = ("dead", "stuck", "reserved", "ready", "limited", "scheduled", "cancelled", "waiting", "done")


class Part(Struct, frozen=True):
    """A part of the bar of a node that stands for several members."""

    x: float
    width: float
    state: str


class Node(Struct, eq=False):
    """What is drawn as one box: a member, or several."""

    members: list[MemberStatus]
    label: str
    note: str  # in its second line
    state: str  # that of the member, or the most interesting one
    whole: str  # everything that there is to say, for a tooltip
    row: int = 0
    x: float = 0.0
    y: float = 0.0
    parts: list[Part] = []

    @property
    def id(self) -> str:
        """Return the id of the member; "" if there are several."""
        return self.members[0].id if len(self.members) == 1 else ""

    @property
    def glyph(self) -> str:
        return GLYPHS.get(self.state, "·")


class Line(Struct, frozen=True):
    """A line from a node to one that waits for it, as the path of an SVG."""

    path: str
    loose: bool  # it does not have to be done: any end will do, or a failure is waited for


class Graph(Struct, frozen=True):
    """A drawing."""

    nodes: list[Node]
    lines: list[Line]
    width: int
    height: int
    states: list[tuple[str, int]]  # each state with the number of members in it, the most interesting first
    rows: int
    folded: int  # members that have no box of their own
    node_width: int = WIDTH
    node_height: int = HEIGHT

    @property
    def text(self) -> str:
        """Return the graph in one sentence, for who cannot see it."""
        told = ", ".join(f"{number:,} {WORDS.get(state, state)}" for state, number in self.states)
        return f"{count(sum(number for _, number in self.states), 'member')} in {count(self.rows, 'row')}: {told}"


def state_of(member: MemberStatus) -> str:
    """Return the state of a member as it is drawn: a member that waits for a dead one is stuck."""
    return "stuck" if member.stuck else member.state


def drawn(members: Sequence[MemberStatus]) -> Graph:
    """Return the drawing of a flow with these members."""
    links = _Links(members)
    rows = _rows(members, links.depths())
    nodes = [node for row in rows for node in row]
    ways = _ways(nodes, links)
    width, height = _place(rows, ways)
    states = Counter(map(state_of, members))
    return Graph(
        nodes,
        [Line(_path(way), way.loose) for way in ways],
        width,
        height,
        sorted(states.items(), key=lambda each: _rank(each[0])),
        len(rows),
        sum(len(node.members) for node in nodes if len(node.members) > 1),
    )


def _rank(state: str) -> int:
    return _INTEREST.index(state) if state in _INTEREST else len(_INTEREST)


# -- who waits for whom ------------------------------------------------------------------------------


class _Links:
    """The members by number, and the numbers of those that each waits for; stages and ALL are resolved."""

    def __init__(self, members: Sequence[MemberStatus]) -> None:
        numbers = {member.id: number for number, member in enumerate(members)}
        self.ids = list(numbers)
        self.stages: dict[str, list[int]] = {}
        for number, member in enumerate(members):
            if member.stage:
                self.stages.setdefault(member.stage, []).append(number)
        self.body = [number for number, member in enumerate(members) if not member.finale]
        self.jobs: list[list[tuple[int, bool]]] = []  # of each member: the members that it is after, and whether loosely
        self.groups: list[list[tuple[str, bool]]] = []  # of each member: the stages that it is after; "" is ALL
        left = MOST_TARGETS
        for member in members:
            loose = member.when != "done"
            jobs, groups = [], []
            for each in member.after[:left]:
                if each.kind == "job" and each.target in numbers:
                    jobs.append((numbers[each.target], loose or each.ended))
                elif each.kind == "all" or (each.kind == "stage" and each.target in self.stages):
                    groups.append(("" if each.kind == "all" else each.target, loose or each.ended))
            left -= len(member.after)
            left = max(left, 0)
            if member.finale and not jobs and not groups:  # a member of the finale added it
                groups.append(("", loose))
            self.jobs.append(jobs)
            self.groups.append(groups)

    def inside(self, group: str) -> list[int]:
        """Return the members of a stage, or of the body."""
        return self.stages[group] if group else self.body

    def ends_of(self, group: str) -> list[int]:
        """Return the members of a stage from which lines go on; of the body, those that nothing in it needs."""
        if group:
            return self.stages[group]
        needed = {target for number in self.body for target, _ in self.jobs[number]}
        for name in {name for number in self.body for name, _ in self.groups[number]}:
            needed.update(self.inside(name))
        return [number for number in self.body if number not in needed]

    def depths(self) -> list[int]:
        """Return the row of each member: one more than the last row of what it waits for."""
        total = len(self.jobs)
        groups = {name: total + number for number, name in enumerate(["", *self.stages])}
        needs: list[list[int]] = [
            [*(target for target, _ in jobs), *(groups[name] for name, _ in names)]
            for jobs, names in zip(self.jobs, self.groups, strict=True)
        ]
        needs += [self.inside(name) for name in groups]
        depths = [0] * len(needs)
        missing = list(map(len, needs))
        needed: list[list[int]] = [[] for _ in needs]
        for number, those in enumerate(needs):
            for each in those:
                needed[each].append(number)
        ready = [number for number, those in enumerate(missing) if not those]
        while ready:
            number = ready.pop()
            for each in needed[number]:
                depths[each] = max(depths[each], depths[number] + (number < total))  # a group has no row of its own
                missing[each] -= 1
                if not missing[each]:
                    ready.append(each)
        return depths[:total]


# -- what is drawn as one ----------------------------------------------------------------------------


def _rows(members: Sequence[MemberStatus], depths: Sequence[int]) -> list[list[Node]]:
    """Return the nodes row by row."""
    layers: list[list[MemberStatus]] = [[] for _ in range(max(depths, default=-1) + 1)]
    for member, depth in zip(members, depths, strict=True):
        layers[depth].append(member)
    kept = _kept(layers)
    most = max(1, min(MOST_BESIDE, MOST // max(1, len(kept))))
    rows: list[list[Node]] = []
    skipped: list[list[MemberStatus]] = []
    for number, layer in enumerate(layers):
        if number not in kept:
            skipped.append(layer)
            continue
        if skipped:
            rows.append([_stretch(skipped)])
            skipped = []
        rows.append(_row(layer, most))
    for number, row in enumerate(rows):
        for node in row:
            node.row = number
    return rows


def _kept(layers: Sequence[Sequence[MemberStatus]]) -> set[int]:
    """Return the rows that are drawn: of a long flow, both ends, and those in which something happens."""
    if len(layers) <= MOST_ROWS:
        return set(range(len(layers)))
    least = [min(_rank(state_of(member)) for member in layer) for layer in layers]
    waiting = _rank("waiting")
    busy = sorted((number for number in range(len(layers)) if least[number] < waiting), key=lambda number: least[number])
    ends = [0, 1, len(layers) - 2, len(layers) - 1]
    kept = dict.fromkeys(ends)
    for number in busy:
        for each in (number, number - 1, number + 1):
            if 0 <= each < len(layers) and len(kept) < MOST_ROWS // 2:
                kept[each] = None
    return set(kept)


def _stretch(layers: Sequence[Sequence[MemberStatus]]) -> Node:
    inside = [member for layer in layers for member in layer]
    return _several(inside, f"… {count(len(layers), 'row')}")


def _row(layer: Sequence[MemberStatus], most: int) -> list[Node]:
    """Return the nodes of a row, those of one stage beside one another."""
    if len(layer) <= most:
        return [_single(member) for member in sorted(layer, key=lambda member: member.stage)]
    by_stage: dict[str, list[MemberStatus]] = {}
    for member in layer:
        by_stage.setdefault(member.stage, []).append(member)
    single = by_stage.pop("", [])
    nodes = [
        _single(inside[0]) if len(inside) == 1 else _several(inside, f"stage {stage}") for stage, inside in by_stage.items()
    ]
    nodes.sort(key=lambda node: _rank(node.state))
    room = most - min(len(nodes), most - bool(single))
    if len(nodes) > most - bool(single):
        room = int(bool(single))
        shown = max(0, most - room - 1)
        nodes = [*nodes[:shown], _several([each for node in nodes[shown:] for each in node.members], "… more stages")]
    single.sort(key=lambda member: _rank(state_of(member)))
    shown = len(single) if len(single) <= room else max(0, room - 1)
    nodes += map(_single, single[:shown])
    if single[shown:]:
        nodes.append(_several(single[shown:], f"… {len(single) - shown:,} more" if shown else count(len(single), "member")))
    return nodes


def _single(member: MemberStatus) -> Node:
    name, state = member.label or member.id, state_of(member)
    facts = [WORDS.get(state, state), *([f"when {member.when}"] if member.when != "done" else [])]
    whole = [name, ", ".join(facts), *([f"stage {member.stage}"] if member.stage else []), *filter(None, [member.reason])]
    note = " · ".join([*facts, *([member.stage] if member.stage else [])])
    return Node([member], _short(name), _shortened(note, 24), state, "; ".join(whole)[:500])


def _several(inside: list[MemberStatus], label: str) -> Node:
    states = sorted(Counter(map(state_of, inside)).items(), key=lambda each: _rank(each[0]))
    told = ", ".join(f"{number:,} {WORDS.get(state, state)}" for state, number in states)
    names = Counter(member.label for member in inside if member.label)
    jobs = ", ".join(name for name, _ in names.most_common(3)) + (", …" if len(names) > 3 else "")
    parts, x, room = [], 0.0, WIDTH - 2 * EDGE
    for state, number in states:
        width = round(room * number / len(inside), 1)
        parts.append(Part(EDGE + x, max(width, 1.0), state))
        x += width
    whole = f"{label}: {count(len(inside), 'member')}: {told}" + (f"; {jobs}" if jobs else "")
    return Node(inside, _shortened(label, _LONGEST), _shortened(told, 24), states[0][0], whole[:500], parts=parts)


def _short(name: str) -> str:
    """Return a name as it fits: of a long one, the end, which says most."""
    return name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :]


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


# -- lines -------------------------------------------------------------------------------------------


class _Way(Struct, eq=False):
    """A line between two nodes, and the places at which it passes the rows between them."""

    begin: Node
    end: Node
    loose: bool
    passes: list[_Pass] = []


class _Pass(Struct, eq=False):
    """The place of a line in a row that it only passes."""

    row: int
    x: float = 0.0


_Slot: TypeAlias = "Node | _Pass"


def _ways(nodes: Sequence[Node], links: _Links) -> list[_Way]:
    """Return the lines between nodes, without those that follow from others."""
    by_id = {member.id: number for number, node in enumerate(nodes) for member in node.members}
    of_member = [by_id[each] for each in links.ids]
    found: dict[tuple[int, int], bool] = {}

    def add(begins: Iterable[int], end: int, loose: bool) -> None:
        for begin in begins:
            if nodes[begin].row < nodes[end].row:
                found[begin, end] = found.get((begin, end), True) and loose

    inside = {name: {of_member[number] for number in links.ends_of(name)} for name in ("", *links.stages)}
    for number, (jobs, groups) in enumerate(zip(links.jobs, links.groups, strict=True)):
        for target, loose in jobs:
            add([of_member[target]], of_member[number], loose)
        for name, loose in groups:
            add(inside[name], of_member[number], loose)
    made = []
    for begin, end in _reduced(found, nodes):
        first, last = nodes[begin], nodes[end]
        passes = [_Pass(row) for row in range(first.row + 1, last.row)]
        made.append(_Way(first, last, found[begin, end], passes))
    return made


def _reduced(found: Iterable[tuple[int, int]], nodes: Sequence[Node]) -> list[tuple[int, int]]:
    """Return the lines that do not follow from others: of "b after a, c after a and b", not that from a to c."""
    below: list[set[int]] = [set() for _ in nodes]
    for begin, end in found:
        below[begin].add(end)
    reach: list[set[int]] = [set() for _ in nodes]
    kept: list[tuple[int, int]] = []
    for begin in sorted(range(len(nodes)), key=lambda number: -nodes[number].row):
        through: set[int] = set()
        for each in below[begin]:
            through |= reach[each]
        kept += [(begin, each) for each in below[begin] if each not in through]
        reach[begin] = through | below[begin]
    return sorted(kept)


# -- places ------------------------------------------------------------------------------------------


def _place(rows: Sequence[Sequence[Node]], ways: Sequence[_Way]) -> tuple[int, int]:
    """Give everything its place: what is joined stands close together. Return width and height."""
    slots: list[list[_Slot]] = [list(row) for row in rows]
    above: dict[int, list[_Slot]] = {}
    below: dict[int, list[_Slot]] = {}
    for way in ways:
        chain: list[_Slot] = [way.begin, *way.passes, way.end]
        for each in way.passes:
            slots[each.row].append(each)
        for upper, lower in itertools.pairwise(chain):
            below.setdefault(id(upper), []).append(lower)
            above.setdefault(id(lower), []).append(upper)
    for row in slots:
        _spread(row, 0.0)
    for turn in range(SWEEPS):
        down = turn % 2 == 0
        joined = above if down else below
        for row in slots if down else reversed(slots):
            row.sort(key=lambda slot: _middle(slot, joined.get(id(slot), ())))
            _spread(row, 0.0)
    most = max((_width(row) for row in slots), default=0.0)
    for row in slots:
        _spread(row, EDGE + (most - _width(row)) / 2)
    for number, nodes in enumerate(rows):
        for node in nodes:
            node.y = EDGE + number * (HEIGHT + BELOW)
    return round(most + 2 * EDGE), round(2 * EDGE + len(rows) * (HEIGHT + BELOW) - BELOW) if rows else 0


SWEEPS = 8
"""How often all rows are put in order."""


def _size(slot: _Slot) -> float:
    return WIDTH if isinstance(slot, Node) else THIN


def _width(row: Sequence[_Slot]) -> float:
    return sum(map(_size, row)) + BESIDE * max(0, len(row) - 1)


def _middle(slot: _Slot, joined: Sequence[_Slot]) -> float:
    """Return where a slot would like to be: in the middle of what it is joined to, or where it is."""
    wanted = joined or (slot,)
    return sum(each.x + _size(each) / 2 for each in wanted) / len(wanted)


def _spread(row: Sequence[_Slot], begin: float) -> None:
    """Place the slots of a row side by side, around the middle if `begin` is 0."""
    x = begin or -_width(row) / 2
    for slot in row:
        slot.x = round(x, 1)
        x += _size(slot) + BESIDE


def _path(way: _Way) -> str:
    """Return the path of a line: from the lower edge of a node to the upper edge of another one, past the rows between."""
    x, y = way.begin.x + WIDTH / 2, way.begin.y + HEIGHT
    told = [f"M{x:g} {y:g}"]
    for each in way.passes:
        told.append(_bend(x, y, x := each.x + THIN / 2, y := EDGE + each.row * (HEIGHT + BELOW)))
        y += HEIGHT
        told.append(f"V{y:g}")
    told.append(_bend(x, y, way.end.x + WIDTH / 2, way.end.y - ARROW))
    return "".join(told)


ARROW = 5
"""Pixels that the head of a line takes."""


def _bend(x: float, y: float, to_x: float, to_y: float) -> str:
    middle = (y + to_y) / 2
    return f"C{x:g} {middle:g} {to_x:g} {middle:g} {to_x:g} {to_y:g}"
