"""The members of a flow as text: a tree in which each stands under the last thing that it waits for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from msgspec import Struct

from ..backends.base import State
from ..backends.flows import ALL, GIVE_UP_REFUSED, MOST_LISTED, After, FlowStatus, MemberStatus, was_refused
from ..backends.letters import EXPIRED, GIVE_UP_EXPIRED
from ..escapes import in_one_line, word
from ..units import count

MOST_BESIDE = 20
"""Most members under one node that are shown, those that have not ended first."""

INDENT = 3
"""Characters of one level."""

MOST_DEEP = 50
"""Most levels by which a line is indented: without it, a chain of thousands would be megabytes of spaces."""

MOST_HELD = 5
"""Most dead members that are named as what holds a flow up."""

_MARKS = {State.DONE.value: "✓", State.DEAD.value: "✗", State.CANCELLED.value: "-"}
_RANK = {State.DEAD.value: 0, State.RESERVED.value: 1, State.WAITING.value: 3, State.CANCELLED.value: 4, State.DONE.value: 5}


class Node(Struct, eq=False):
    """A member, a stage or a number of members, with what waits for it."""

    text: str
    member: MemberStatus | None = None
    below: list[Node] = []


def known(flow: FlowStatus) -> int:
    """Return how many members the backend can list."""
    return flow.total if flow.total <= MOST_LISTED else flow.waiting + flow.active + flow.dead


def held_up(flow: FlowStatus, members: Sequence[MemberStatus]) -> Iterator[str]:
    """Say what keeps a flow from its end: dead members, those in work, or parts that have not arrived.

    If `members` are not all, what only they could tell is said to be incomplete.
    """
    if flow.state == "open":
        yield "its last part has not arrived: no member runs before that"
    whole = len(members) >= known(flow)
    dead = [member for member in members if member.state == State.DEAD.value][:MOST_HELD]
    stuck = sum(member.stuck for member in members)
    for member in dead:
        reason = f" ({in_one_line(member.reason)})" if member.reason else ""
        what = f"`jobsctl show {word(member.id)}` has its errors"
        if was_refused(member.id, member.reason):
            what = f"{GIVE_UP_REFUSED}: `jobsctl dead drop {word(member.id)}`"
        elif member.reason == EXPIRED:
            what = f"{GIVE_UP_EXPIRED}, which cancels what needs it: `jobsctl dead drop {word(member.id)}`"
        yield f"{_name(member)} {member.id} is dead{reason}: {what}"
    if (unnamed := flow.dead - len(dead)) > 0:
        yield f"{count(unnamed, 'more member' if dead else 'member')} {'is' if unnamed == 1 else 'are'} dead"
    if flow.state == "failed":
        least = "" if whole else "at least "
        waits = f"{least}{count(stuck, 'member')} {'waits' if stuck == 1 else 'wait'} for them: " if stuck else ""
        yield f"{waits}{_again(flow, members)}`jobsctl flow cancel {flow.id}` gives up"
    work = Counter(member.state for member in members if member.state in _IN_WORK)
    if work and flow.state != "open":
        states = ", ".join(f"{number:,} {state}" for state, number in work.items())
        first = next(member for member in members if member.state in _IN_WORK)
        states = states if whole else f"{flow.active:,} (of the {count(len(members), 'member')} read, {states})"
        yield f"in work: {states}, such as {_name(first)}: `jobsctl why {word(first.id)}`"


def _again(flow: FlowStatus, members: Sequence[MemberStatus]) -> str:
    """Say how to retry the dead members; nothing if the flow refused all of them, or they have expired."""
    refused = sum(
        member.state == State.DEAD.value and (was_refused(member.id, member.reason) or member.reason == EXPIRED)
        for member in members
    )
    if refused == flow.dead:
        return ""
    return f"`jobsctl flow retry {flow.id}` runs the {'other dead' if refused else 'dead'} again, "


_IN_WORK = tuple(state.value for state in (State.RESERVED, State.READY, State.LIMITED, State.SCHEDULED))


def tree(members: Sequence[MemberStatus], *, whole: bool = True) -> Iterator[str]:
    """Yield the lines of the tree, of as many members as are given, with at most MOST_BESIDE under one node.

    If they are not the `whole` flow, the lines with counts say so. The lines of a long chain are indented up to MOST_DEEP.
    """
    of_these = "" if whole else f" of the {len(members):,} read"
    for root in grown(members, of_these):
        yield from _lines(root, of_these)


def grown(members: Sequence[MemberStatus], of_these: str) -> list[Node]:
    """Return the roots. A stage is a node of its own, under what its first member waits for, and so is what ALL stands for.

    A member of the finale that is after nothing listed, such as one that a member of the finale added, is under ALL too.
    """
    names = {member.id: _name(member) for member in members}
    nodes = {("job", member.id): Node(line_of(member, names), member) for member in members}
    roots: list[Node] = []
    by_stage: dict[str, list[MemberStatus]] = {}
    for member in members:
        by_stage.setdefault(member.stage, []).append(member)
    for label, inside in by_stage.items():
        if label:
            states = Counter(member.state for member in inside)
            shown = ", ".join(f"{number:,} {state}" for state, number in states.items())
            nodes["stage", label] = Node(f"stage {label}: {shown}{of_these}")
    placed: set[tuple[str, str]] = set()

    def place(key: tuple[str, str], holder: tuple[str, str] | None) -> None:
        placed.add(key)
        (nodes[holder].below if holder is not None else roots).append(nodes[key])

    for member in members:
        waits = _last(member.after, nodes) or (("all", ALL) if member.finale else None)
        if waits is not None and waits not in nodes:
            nodes[waits] = Node("when all others have ended")
            place(waits, None)
        if member.stage and not (waits is not None and _stage_of(nodes[waits]) == member.stage):
            stage = ("stage", member.stage)
            if stage not in placed:
                place(stage, waits)
            waits = stage
        place(("job", member.id), waits)
    return roots


def _last(after: Sequence[After], nodes: dict[tuple[str, str], Node]) -> tuple[str, str] | None:
    """Return the last target that is listed."""
    for each in reversed(after):
        key = (each.kind, each.target)
        if each.kind == "all" or key in nodes:
            return key
    return None


def _stage_of(node: Node) -> str | None:
    return None if node.member is None else node.member.stage


def _lines(root: Node, of_these: str) -> Iterator[str]:
    """Yield the lines of a node and of all below it, without recursion: a chain is as deep as it is long."""
    left: list[tuple[Node, str, str]] = [(root, "", "")]
    while left:
        node, first, rest = left.pop()
        yield f"{first}{node.text}"
        below = shown_below(node.below, of_these)
        inside = len(rest) < INDENT * MOST_DEEP
        for each in reversed(below):
            last = each is below[-1]
            deeper = rest + ("   " if last else "│  ") if inside else rest
            left.append((each, rest + ("└─ " if last else "├─ "), deeper))


def shown_below(below: list[Node], of_these: str) -> list[Node]:
    """Return the nodes that are shown of those below another one, with one that counts the others."""
    if len(below) <= MOST_BESIDE:
        return below
    below = sorted(below, key=lambda each: 2 if each.member is None else _RANK.get(each.member.state, 2))
    below, hidden = below[:MOST_BESIDE], below[MOST_BESIDE:]
    states = Counter(each.member.state for each in hidden if each.member is not None)
    told = ", ".join(f"{number:,} {state}" for state, number in states.items())
    return [*below, Node(f"… {len(hidden):,} more{of_these}: {told}")]


def line_of(member: MemberStatus, names: dict[str, str]) -> str:
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
