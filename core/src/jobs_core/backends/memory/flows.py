"""The flows of a memory store: which members wait for what, and what follows from each end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Protocol

from ...errors import BackendError
from ..flows import ALL, SLICE, After, Member, Part


class Phase(Enum):
    """The phase of a member."""

    WAITING = "waiting"
    STUCK = "stuck"  # waits for something that died
    ACTIVE = "active"  # ready, limited, scheduled or reserved
    DONE = "done"
    DEAD = "dead"
    GONE = "gone"


_BAD = frozenset({Phase.STUCK, Phase.DEAD})


class Host(Protocol):
    """The store that keeps the jobs of a flow."""

    def start(self, job_id: str) -> None:
        """Make a waiting member ready, or due after its delay."""

    def remove(self, job_id: str, reason: str) -> None:
        """Cancel a waiting member."""


class Node:
    """A live member: waiting, active or dead."""

    __slots__ = ("bad", "edges", "finale", "groups", "id", "left", "phase", "stuck", "when")

    def __init__(self, job_id: str, place: Member, *, finale: bool) -> None:
        self.id, self.when, self.finale = job_id, place.when, finale
        self.groups = (ALL,) if not finale else ()
        if place.stage:
            self.groups = (*self.groups, f"stage {place.stage}")
        self.left = len(place.after)  # targets that it still waits for, and the close of the flow
        self.stuck = 0  # of these, the dead or stuck ones
        self.bad = False  # one of the others was not done
        self.phase = Phase.WAITING
        self.edges: list[tuple[Node, bool]] = []  # members that are after it, and whether any end will do


class Group:
    """A stage, or the body, which is the stage named ALL."""

    __slots__ = ("bad", "edges", "end", "gone", "left", "sealed")

    def __init__(self) -> None:
        self.left = 0  # members that have not ended
        self.bad = 0  # dead or stuck members
        self.gone = 0
        self.end: Phase | None = None  # the end that was reported
        self.edges: list[tuple[Node, bool]] = []
        self.sealed = False  # something is after it: no part may add members


class Flow:
    """One flow. `work` holds the ends whose dependents are not all decided yet."""

    __slots__ = ("cancelled", "closed", "counts", "groups", "nodes", "opening", "part", "parts", "work")

    def __init__(self, part: Part) -> None:
        self.part = part
        self.parts: set[int] = set()
        self.closed = self.cancelled = False
        self.nodes: dict[str, Node] = {}
        self.groups: dict[str, Group] = {ALL: Group()}
        self.opening: list[tuple[Node, bool]] = []  # all members that were added before the close, which they wait for
        self.counts = dict.fromkeys(Phase, 0)
        self.work: deque[tuple[Iterator[tuple[Node, bool]], Phase]] = deque()

    # -- members -----------------------------------------------------------------------------------

    def add(self, job_id: str, place: Member, *, by: Node | None = None) -> Node:
        """Add a member, which waits, unless all that it is after has ended; `by` is the running member that adds it."""
        finale = bool(by and by.finale) or any(self._is_finale(after) for after in place.after)
        node = Node(job_id, place, finale=finale)
        for name in node.groups:
            group = self.groups.setdefault(name, Group())
            if group.sealed and name != ALL and by is None:
                raise BackendError(f"{name} of flow {self.part.flow} has members that wait for it: add its own members first")
        targets = [self._target(after, by) for after in place.after]
        for name in node.groups:
            self.groups[name].left += 1
        self.nodes[job_id] = node
        self.counts[Phase.WAITING] += 1
        if not self.closed or not targets:
            node.left += 1
            self.opening.append((node, False))
        for after, target in zip(place.after, targets, strict=True):
            self._wait_for(node, target, after.ended or place.when != "done")
        return node

    def _is_finale(self, after: After) -> bool:
        node = self.nodes.get(after.target) if after.kind == "job" else None
        return after.kind == "all" or (node is not None and node.finale)

    def _target(self, after: After, by: Node | None) -> Node | Group | None:
        """Return what a member is to wait for; None if it has ended and is gone from the flow."""
        if after.kind == "all":
            return self.groups[ALL]
        if after.kind == "stage":
            group = self.groups.get(f"stage {after.target}")
            if group is None:
                raise BackendError(f"flow {self.part.flow} has no stage {after.target}")
            group.sealed = True
            return group
        node = self.nodes.get(after.target)
        if node is None and by is None:
            raise BackendError(f"flow {self.part.flow} has no member {after.target}")
        return node

    def _wait_for(self, node: Node, target: Node | Group | None, any_end: bool) -> None:
        end = Phase.DONE if target is None else self._end_of(target)
        if target is not None and (end is None or (end in _BAD and not any_end)):
            target.edges.append((node, any_end))
        if end is not None:
            self.work.append((iter([(node, any_end)]), end))

    def _end_of(self, target: Node | Group) -> Phase | None:
        if isinstance(target, Group):
            return target.end
        return target.phase if target.phase in _BAD else None

    def close(self) -> None:
        """Let the flow begin: nothing may be added now but by its members."""
        self.closed = True
        self.begin()
        for group in self.groups.values():
            self._judge(group)

    def begin(self) -> None:
        """Queue the start of the members that were only waiting for the close, or for nothing."""
        opening, self.opening = self.opening, []
        if opening:
            self.work.append((iter(opening), Phase.DONE))

    # -- ends --------------------------------------------------------------------------------------

    def enter(self, node: Node, phase: Phase) -> None:
        """Move a member to a phase, and queue what follows for the members that are after it."""
        before, node.phase = node.phase, phase
        self.counts[before] -= 1
        self.counts[phase] += 1
        ended, had_ended = phase not in (Phase.WAITING, Phase.ACTIVE), before in _BAD
        for name in node.groups:
            group = self.groups[name]
            group.left += had_ended - ended
            group.bad += (phase in _BAD) - (before in _BAD)
            group.gone += phase is Phase.GONE
        if phase in (Phase.DONE, Phase.GONE):
            del self.nodes[node.id]
        self._follow(node, phase if ended else (Phase.WAITING if had_ended else None))
        for name in node.groups:
            self._judge(self.groups[name])

    def _judge(self, group: Group) -> None:
        """Report the end of a stage once it has one, and take it back when a dead letter in it is retried."""
        end = None
        if self.closed and group.left == 0:
            end = Phase.GONE if group.gone else Phase.DEAD if group.bad else Phase.DONE
        if end is not group.end:
            before, group.end = group.end, end
            self._follow(group, Phase.WAITING if end is None and before in _BAD else end)

    def _follow(self, target: Node | Group, end: Phase | None) -> None:
        """Queue the consequences of an end; WAITING takes a death back."""
        if end is None or not target.edges:
            return
        edges = target.edges
        target.edges = [edge for edge in edges if not edge[1]] if end in (*_BAD, Phase.WAITING) else []
        self.work.append((iter(edges), end))

    def proceed(self, host: Host, most: int = SLICE) -> bool:
        """Decide the fate of up to `most` members; return whether there are more to decide."""
        while self.work and most > 0:
            edges, end = self.work[0]
            for node, any_end in edges:
                self._decide(node, any_end, end, host)
                most -= 1
                if most <= 0:
                    break
            else:
                self.work.popleft()
        return bool(self.work)

    def _decide(self, node: Node, any_end: bool, end: Phase, host: Host) -> None:
        if node.phase not in (Phase.WAITING, Phase.STUCK):
            return
        if end is Phase.DONE or (any_end and end is not Phase.WAITING):
            node.left -= 1
            node.bad = node.bad or end is not Phase.DONE
        elif any_end:
            return
        elif end is Phase.GONE:
            self._remove(node, "a member that it waited for was cancelled", host)
            return
        else:
            node.stuck += 1 if end in _BAD else -1
        if node.stuck:
            if node.phase is Phase.WAITING:
                self.enter(node, Phase.STUCK)
        elif node.phase is Phase.STUCK:
            self.enter(node, Phase.WAITING)
        if not node.left:
            self._start(node, host)

    def _start(self, node: Node, host: Host) -> None:
        if node.when == "failed" and not node.bad:
            self._remove(node, "skipped: nothing that it waited for had failed", host)
        else:
            self.enter(node, Phase.ACTIVE)
            host.start(node.id)

    def _remove(self, node: Node, reason: str, host: Host) -> None:
        self.enter(node, Phase.GONE)
        host.remove(node.id, reason)
