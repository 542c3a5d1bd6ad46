"""The members of a flow as text: a tree in which each stands under the last thing that it waits for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from msgspec import Struct

from ..backends.base import State
from ..backends.flows import After, FlowStatus, MemberStatus
from ..escapes import in_one_line
from ..units import count
from . import output

MOST_BESIDE = 20
"""Most members under one node that are shown, those that have not ended first."""

MOST_HELD = 5
"""Most dead members that are named as what holds a flow up."""

_MARKS = {State.DONE.value: output.GOOD, State.DEAD.value: output.BAD, State.CANCELLED.value: "-"}
_RANK = {State.DEAD.value: 0, State.RESERVED.value: 1, State.WAITING.value: 3, State.CANCELLED.value: 4, State.DONE.value: 5}


class _Node(Struct, eq=False):
    text: str
    member: MemberStatus | None = None
    below: list[_Node] = []


def held_up(flow: FlowStatus, members: Sequence[MemberStatus]) -> Iterator[str]:
    """Say what keeps a flow from its end: dead members, those in work, or parts that have not arrived."""
    if flow.state == "open":
        yield "its last part has not arrived: no member runs before that"
    dead = [member for member in members if member.state == State.DEAD.value]
    stuck = sum(member.stuck for member in members)
    for member in dead[:MOST_HELD]:
        reason = f" ({in_one_line(member.reason)})" if member.reason else ""
        yield f"{_name(member)} {member.id} is dead{reason}: `jobsctl show {member.id}` has its errors"
    if len(dead) > MOST_HELD:
        yield f"{count(len(dead) - MOST_HELD, 'more member')} {'is' if len(dead) - MOST_HELD == 1 else 'are'} dead"
    if flow.state == "failed":
        waits = f"{count(stuck, 'member')} {'waits' if stuck == 1 else 'wait'} for them: " if stuck else ""
        yield f"{waits}`jobsctl flow retry {flow.id}` runs the dead again, `jobsctl flow cancel {flow.id}` gives up"
    work = Counter(member.state for member in members if member.state in _IN_WORK)
    if work and flow.state != "open":
        states = ", ".join(f"{number:,} {state}" for state, number in work.items())
        first = next(member for member in members if member.state in _IN_WORK)
        yield f"in work: {states}, such as {_name(first)}: `jobsctl why {first.id}`"


_IN_WORK = tuple(state.value for state in (State.RESERVED, State.READY, State.LIMITED, State.SCHEDULED))


def tree(members: Sequence[MemberStatus]) -> Iterator[str]:
    """Yield the lines of the tree, of as many members as are given, with at most MOST_BESIDE under one node."""
    for root in _grown(members):
        yield from _lines(root, "", "")


def _grown(members: Sequence[MemberStatus]) -> list[_Node]:
    """Return the roots. A stage is a node of its own, under what its first member waits for, and so is what ALL stands for."""
    names = {member.id: _name(member) for member in members}
    nodes = {("job", member.id): _Node(_line(member, names), member) for member in members}
    roots: list[_Node] = []
    by_stage: dict[str, list[MemberStatus]] = {}
    for member in members:
        by_stage.setdefault(member.stage, []).append(member)
    for label, inside in by_stage.items():
        if label:
            states = Counter(member.state for member in inside)
            shown = ", ".join(f"{number:,} {state}" for state, number in states.items())
            nodes["stage", label] = _Node(f"stage {label}: {shown}")
    placed: set[tuple[str, str]] = set()

    def place(key: tuple[str, str], holder: tuple[str, str] | None) -> None:
        placed.add(key)
        (nodes[holder].below if holder is not None else roots).append(nodes[key])

    for member in members:
        waits = _last(member.after, nodes)
        if waits is not None and waits not in nodes:
            nodes[waits] = _Node("when all others have ended")
            place(waits, None)
        if member.stage and not (waits is not None and _stage_of(nodes[waits]) == member.stage):
            stage = ("stage", member.stage)
            if stage not in placed:
                place(stage, waits)
            waits = stage
        place(("job", member.id), waits)
    return roots


def _last(after: Sequence[After], nodes: dict[tuple[str, str], _Node]) -> tuple[str, str] | None:
    """Return the last target that is listed."""
    for each in reversed(after):
        key = (each.kind, each.target)
        if each.kind == "all" or key in nodes:
            return key
    return None


def _stage_of(node: _Node) -> str | None:
    return None if node.member is None else node.member.stage


def _lines(node: _Node, first: str, rest: str) -> Iterator[str]:
    yield f"{first}{node.text}"
    below = node.below
    hidden: list[_Node] = []
    if len(below) > MOST_BESIDE:
        below = sorted(below, key=lambda each: 2 if each.member is None else _RANK.get(each.member.state, 2))
        below, hidden = below[:MOST_BESIDE], below[MOST_BESIDE:]
    for number, each in enumerate(below, 1):
        last = number == len(below) and not hidden
        yield from _lines(each, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))
    if hidden:
        states = Counter(each.member.state for each in hidden if each.member is not None)
        yield f"{rest}└─ … {len(hidden):,} more: {', '.join(f'{number:,} {state}' for state, number in states.items())}"


def _line(member: MemberStatus, names: dict[str, str]) -> str:
    mark = _MARKS.get(member.state)
    others = [_target(each, names) for each in member.after[:-1]]
    facts = [
        "" if mark else member.state,
        "stuck" if member.stuck else "",
        f"when {member.when}" if member.when != "done" else "",
        f"also after {', '.join(others[:3])}{', …' if len(others) > 3 else ''}" if others else "",
        in_one_line(member.reason) if mark and member.reason else "",
    ]
    told = ", ".join(filter(None, facts))
    return f"{mark + ' ' if mark else ''}{_name(member)} {member.id}" + (f"  {told}" if told else "")


def _target(after: After, names: dict[str, str]) -> str:
    what = f"stage {after.target}" if after.kind == "stage" else names.get(after.target, after.target)
    what = "all others" if after.kind == "all" else what
    return f"the end of {what}" if after.ended else what


def _name(member: MemberStatus) -> str:
    return member.label or "job"
