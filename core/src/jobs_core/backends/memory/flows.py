"""The flows of a memory store: which members wait for what, and what follows from each end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from itertools import islice
from typing import Final, Protocol

from ...errors import BackendError
from ..flows import AFTER_GONE, MOST_AFTER, MOST_LISTED, SLICE, After, FlowState, FlowStatus, Member, Part, refusal


class Phase(Enum):
    """The phase of a member."""

    WAITING = "waiting"
    STUCK = "stuck"  # waits for something that died
    ACTIVE = "active"  # ready, limited, scheduled or reserved
    DONE = "done"
    DEAD = "dead"
    GONE = "gone"
    SKIPPED = "skipped"


_BAD: Final = frozenset({Phase.STUCK, Phase.DEAD})
_FINAL: Final = frozenset({Phase.DONE, Phase.GONE, Phase.SKIPPED})
_FAILED: Final = frozenset({Phase.STUCK, Phase.DEAD, Phase.GONE})

CANCELLED: Final = "its flow was cancelled"
_SKIPPED: Final = "skipped: nothing that it waited for had failed"
_AFTER_SKIPPED: Final = "skipped: a member that it waited for was skipped"


class Host(Protocol):
    """The store that keeps the jobs of a flow."""

    def start(self, job_id: str) -> None:
        """Make a waiting member ready, or due after its delay."""

    def remove(self, job_id: str, reason: str) -> None:
        """Cancel a member that is not reserved."""

    def is_reserved(self, job_id: str) -> bool:
        """Return whether a member is reserved."""

    def release(self, job_id: str) -> None:
        """Treat a dead letter like one that is in no flow, because the flow was cancelled."""


class Target:
    """A member or a stage, with the members that are after it."""

    __slots__ = ("any_end", "needs")

    def __init__(self) -> None:
        self.any_end: list[Node] = []  # members for which any end of this will do
        self.needs: list[Node] = []  # members that wait until this is done


class Group(Target):
    """A stage, or the body."""

    __slots__ = ("bad", "end", "finale", "gone", "left", "seal")

    def __init__(self, *, finale: bool) -> None:
        super().__init__()
        self.finale = finale
        self.left = 0  # members that have not ended
        self.bad = 0  # dead or stuck members
        self.gone = 0
        self.end: Phase | None = None  # the end that was reported
        self.seal: int | None = None  # the order of the stage, from when something is after it


class Node(Target):
    """A member that has not ended for good."""

    # fmt: off
    __slots__ = ("bad", "finale", "flow", "groups", "id", "left", "lost", "order", "phase", "place", "reason", "result",
                 "stage", "stuck", "topic")
    # fmt: on

    def __init__(self, flow: Flow, job_id: str, place: Member, stage: str, *, finale: bool) -> None:
        super().__init__()
        self.flow, self.id, self.place, self.stage, self.finale = flow, job_id, place, stage, finale
        self.groups: tuple[Group, ...] = ()
        self.order = 0  # all that it waits for has a lower order, see `Flow.plan`
        self.left = 0  # targets that it still waits for, and the close of the flow
        self.stuck = 0  # of these, the dead or stuck ones
        self.bad = False  # one of the others failed
        self.lost: Phase | None = None  # the end of a target that keeps it from ever running
        self.phase = Phase.WAITING
        self.topic = self.reason = ""
        self.result: bytes | None = None

    @property
    def barred(self) -> bool:
        """Return whether it may not start any more, because its flow was cancelled."""
        return self.flow.cancelled and not (self.flow.keeps_finale and self.finale)

    @property
    def refused(self) -> bool:
        """Return whether its flow never admitted it: it is dead from the start, and cannot be retried."""
        return self.lost is Phase.DEAD

    def waiting_for(self, most: int) -> tuple[str, ...]:
        """Return some of the targets that it still waits for, dead ones first."""
        return self.flow.waiting_for(self, most)


class Flow:
    """One flow. What follows from ends is queued, and carried out by `proceed`."""

    # fmt: off
    __slots__ = (
        "_early",
        "_early_ends",
        "_kept",
        "_opening",
        "_step",
        "_sweeping",
        "_takers",
        "_unjudged",
        "_work",
        "body",
        "cancelled",
        "closed",
        "counts",
        "created_at",
        "dead",
        "ended_at",
        "failed_at",
        "keeps_finale",
        "listed",
        "lost",
        "nodes",
        "part",
        "parts",
        "queued",
        "results",
        "stages",
        "total",
        "touched",
    )
    # fmt: on

    def __init__(self, part: Part, now: float = 0.0) -> None:
        self.part = part
        self.created_at = self.touched = now  # touched: when the last part came
        self.failed_at = now  # when a member died last
        self.ended_at: float | None = None
        self.parts = 0  # number of parts that are there
        self.closed = self.cancelled = self.keeps_finale = False
        self.lost = ""  # why no further part is taken
        self.nodes: dict[str, Node] = {}
        self.body, self.stages = Group(finale=False), dict[str, Group]()
        self.dead: dict[str, Node] = {}
        self.listed: dict[str, Node] | None = {}  # all members ever, unless there are too many
        self.counts = dict.fromkeys(Phase, 0)
        self.total = 0
        self.results: dict[str, bytes] = {}  # of members whose result somebody still takes
        self.queued = False  # among the flows with work
        self._takers: dict[str, int] = {}
        self._step = 0
        self._opening: list[Node] = []  # members that were added before the close, which they wait for
        self._early: list[Group] = []  # groups whose members had all ended before the close
        self._early_ends: set[str] = set()  # members that were gone before the close
        self._work: deque[tuple[Iterator[Node], bool, Phase]] = deque()
        self._unjudged: deque[Group] = deque()
        self._sweeping = False
        self._kept: dict[str, Node] = {}  # while a cancelled flow is swept: members that stay

    # -- members -----------------------------------------------------------------------------------

    def plan(self, members: Sequence[tuple[str, Member]], by: Node | None = None) -> list[Node]:
        """Check new members, in their order, and return their nodes, which `add` adds; change nothing.

        Each is after members and stages that came before it, so that no cycle is possible. The exception is a running member
        that adds to its own stage while others wait for that stage. So members and stages are ordered: a stage comes before
        the first member that is after it, and what is added to it later may only be after what comes before the stage.
        """
        planned: dict[str, Node] = {}
        stages: dict[str, bool] = {}
        sealed: set[str] = set()
        for job_id, place in members:
            if job_id in planned or self.node(job_id):
                raise self._refusal(job_id, "it is there already")
            if len(place.after) > MOST_AFTER:
                raise self._refusal(
                    job_id, f"it is after {len(place.after)} members and stages: at most {MOST_AFTER}, use stages"
                )
            stage = place.stage if place.stage is not None else by.stage if by else ""
            finale = bool(by and by.finale)
            for after in place.after:
                finale = self._check_target(job_id, after, stage, planned, stages, by) or finale
                if after.kind == "stage":
                    sealed.add(after.target)
            node = planned[job_id] = Node(self, job_id, place, stage, finale=finale)
            if stage:
                self._check_stage(node, stage, stages, sealed, by)
            self._check_inputs(node, planned)
        return list(planned.values())

    def _check_target(
        self, job_id: str, after: After, stage: str, planned: dict[str, Node], stages: dict[str, bool], by: Node | None
    ) -> bool:
        """Return whether a target is in the finale; raise BackendError if there is none."""
        if after.kind == "all":
            return True
        if after.kind == "stage":
            if after.target == stage:
                raise self._refusal(job_id, f"it is after stage {stage}, in which it is itself")
            if after.target in stages:
                return stages[after.target]
            if after.target in self.stages:
                return self.stages[after.target].finale
            raise self._refusal(job_id, f"it is after stage {after.target}, which has no members yet: add them first")
        node = planned.get(after.target) or self.node(after.target)
        if node is None and by is None and after.target not in self._early_ends:
            raise self._refusal(job_id, f"it is after {after.target}, which is no member yet: add it first")
        return node is not None and node.finale

    def _check_stage(self, node: Node, stage: str, stages: dict[str, bool], sealed: set[str], by: Node | None) -> None:
        group = self.stages.get(stage)
        if (group.finale if group else stages.setdefault(stage, node.finale)) != node.finale:
            raise self._refusal(node.id, f"stage {stage} has members of the body, or of the finale: give it another stage")
        seal = group.seal if group else None
        if stage not in sealed and seal is None:
            return
        if by is None or by.stage != stage or seal is None:
            raise self._refusal(node.id, f"other members wait for stage {stage}: add its own members first")
        for after in node.place.after:
            target = self._target(after)
            if isinstance(target, Node) and target.stage != stage and target.order >= seal:
                raise self._refusal(node.id, f"{after.target} may wait for stage {stage}: give it another stage")
            if isinstance(target, Group) and target is not self.body and (target.seal is None or target.seal >= seal):
                raise self._refusal(node.id, f"stage {after.target} may wait for stage {stage}: give it another stage")

    def _check_inputs(self, node: Node, planned: dict[str, Node]) -> None:
        if not node.place.inputs:
            return
        targets = {after.target for after in node.place.after if after.kind == "job"}
        stages = {after.target for after in node.place.after if after.kind == "stage"}
        after_all = any(after.kind == "all" for after in node.place.after)
        for job_id in node.place.inputs:
            taken = planned.get(job_id) or self.node(job_id)
            if job_id in targets or taken is None or taken.stage in stages or (after_all and not taken.finale):
                continue
            raise self._refusal(node.id, f"it takes the result of {job_id}, but is not after it")

    def _refusal(self, job_id: str, why: str) -> BackendError:
        return refusal(job_id, self.part.flow, why)

    def add(self, node: Node) -> None:
        """Add a member that `plan` returned; it waits until `proceed` has looked at it."""
        place, self._step = node.place, self._step + 4
        node.order = self._step
        if node.stage:
            group = self.stages.setdefault(node.stage, Group(finale=node.finale))
            if group.seal is not None:
                node.order = group.seal - 1
            node.groups = (group,)
        if not node.finale:
            node.groups = (*node.groups, self.body)
        self._enrol(node)
        for job_id in place.inputs:
            self._takers[job_id] = self._takers.get(job_id, 0) + 1
        node.left = len(place.after)
        if not self.closed or not place.after:
            node.left += 1
            self._opening.append(node)
        for after in place.after:
            self._wait_for(node, after)

    def add_dead(self, node: Node, reason: str) -> None:
        """Add a member that was refused: it is dead from the start, and waits for nothing."""
        node.lost = Phase.DEAD
        node.place = Member(self.part.flow, label=node.place.label)
        node.stage, node.groups = "", () if node.finale else (self.body,)
        self._enrol(node)
        self.enter(node, Phase.DEAD, reason)

    def _enrol(self, node: Node) -> None:
        for group in node.groups:
            group.left += 1
            group.end = None  # nothing is after a stage that grows when it had ended: what is added next to it may be
        self.nodes[node.id] = node
        self.total += 1
        self.counts[Phase.WAITING] += 1
        if self.listed is not None:
            self.listed[node.id] = node
            if self.total > MOST_LISTED:
                self.listed = None

    def node(self, job_id: str) -> Node | None:
        """Return a member that has not ended for good."""
        return self.nodes.get(job_id) or self._kept.get(job_id)

    def _target(self, after: After) -> Target | None:
        if after.kind == "job":
            return self.node(after.target)
        return self.body if after.kind == "all" else self.stages.get(after.target)

    def _wait_for(self, node: Node, after: After) -> None:
        target, any_end = self._target(after), after.ended or node.place.when != "done"
        if target is None:
            end: Phase | None = Phase.GONE if after.target in self._early_ends else Phase.DONE
        elif isinstance(target, Group):
            end = target.end
            if target is not self.body and target.seal is None:
                target.seal = self._step - 1
        else:
            end = target.phase if isinstance(target, Node) and target.phase in _BAD else None
        if target is not None and (end is None or (end in _BAD and not any_end)):
            (target.any_end if any_end else target.needs).append(node)
        if end is not None:
            self._work.append((iter((node,)), any_end, end))

    def close(self) -> None:
        """Let the flow begin: nothing may be added now but by its members."""
        self.closed = True
        self.begin()
        self._unjudged.extend((*self._early, self.body))
        self._early, self._early_ends = [], set()

    def begin(self) -> None:
        """Queue the start of the members that were only waiting for the close, or for nothing."""
        opening, self._opening = self._opening, []
        self._queue(opening, False, Phase.DONE)

    def cancel(self, *, finale: bool) -> None:
        """Bar all members that have not started, but those of the finale with `finale`; `proceed` removes them."""
        self.keeps_finale = finale and self.closed and (self.keeps_finale or not self.cancelled)
        self.cancelled = self._sweeping = True
        if not self.closed:
            self.lost = "was cancelled"
        self.nodes.update(self._kept)
        self._kept = {}
        if not self.closed:
            self.close()

    # -- ends --------------------------------------------------------------------------------------

    def enter(self, node: Node, phase: Phase, reason: str = "") -> None:
        """Move a member to a phase, and queue what follows for the members that are after it."""
        before, node.phase, node.reason = node.phase, phase, reason
        self.counts[before] -= 1
        self.counts[phase] += 1
        if before is Phase.DEAD:
            del self.dead[node.id]
        if phase is Phase.DEAD:
            if self.cancelled:  # it cannot be retried
                phase = Phase.GONE
            else:
                self.dead[node.id] = node
        ended, had_ended = phase not in (Phase.WAITING, Phase.ACTIVE), before in _BAD
        for group in node.groups:
            group.left += had_ended - ended
            group.bad += (phase in _BAD) - (before in _BAD)
            group.gone += phase is Phase.GONE
        if phase in _FINAL:
            self._forget(node)
        if (ended or had_ended) and not (had_ended and phase in _BAD):  # from stuck to dead, nothing follows
            self._follow(node, phase if ended else Phase.WAITING)
        for group in node.groups:
            self._judge(group)

    def _forget(self, node: Node) -> None:
        if self.nodes.pop(node.id, None) is None:
            del self._kept[node.id]
        if not self.closed:
            self._early_ends.add(node.id)
        if node.phase is Phase.DONE and node.result is not None and node.id in self._takers:
            self.results[node.id] = node.result
        node.result = None
        for job_id in node.place.inputs:
            left = self._takers.get(job_id, 0) - 1
            if left > 0:
                self._takers[job_id] = left
            else:
                self._takers.pop(job_id, None)
                self.results.pop(job_id, None)

    def _judge(self, group: Group) -> None:
        """Report the end of a group once it has one, and take it back when a dead letter in it is retried."""
        end = None
        if group.left == 0:
            if not self.closed:
                self._early.append(group)
                return
            end = Phase.GONE if group.gone else Phase.DEAD if group.bad else Phase.DONE
        before = group.end
        if end is before:
            return
        group.end = end
        if before in _BAD and end not in _BAD:
            self._follow(group, Phase.WAITING)
        if end is not None:
            self._follow(group, end)

    def _follow(self, target: Target, end: Phase) -> None:
        """Queue the consequences of an end; WAITING takes a death back."""
        if end is not Phase.WAITING:
            any_end, target.any_end = target.any_end, []
            self._queue(any_end, True, end)
        needs = target.needs
        if end in _FINAL:
            target.needs = []
        # The list may grow until its turn comes; members that are added later are queued by `_wait_for`.
        self._queue(islice(needs, len(needs)) if needs else (), False, end)

    def _queue(self, nodes: Iterable[Node], any_end: bool, end: Phase) -> None:
        if nodes:
            self._work.append((iter(nodes), any_end, end))

    def retry(self, node: Node, host: Host) -> None:
        """Let a dead member run again, or wait again if what it waits for has not ended."""
        self.enter(node, Phase.WAITING)
        self._look(node, host)

    # -- steps -------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        return bool(self._work or self._unjudged or self._sweeping)

    def proceed(self, host: Host, most: int = SLICE) -> int:
        """Decide the fate of up to `most` members and stages; return of how many."""
        left = most
        while left > 0:
            if self._work:
                nodes, any_end, end = self._work[0]
                node = next(nodes, None)
                if node is None:
                    self._work.popleft()
                    continue
                self._decide(node, any_end, end, host)
            elif self._unjudged:
                self._judge(self._unjudged.popleft())
            elif self._sweeping:
                self._sweep(host)
            else:
                break
            left -= 1
        return most - left

    def _decide(self, node: Node, any_end: bool, end: Phase, host: Host) -> None:
        if node.phase in _FINAL or node.phase is Phase.ACTIVE:
            return
        if end is Phase.DONE or any_end:
            node.left -= 1
            node.bad = node.bad or end in _FAILED
        elif end in _BAD:
            node.stuck += 1
        elif end is Phase.WAITING:
            node.stuck -= 1
        else:
            node.lost = node.lost or end
        if node.phase is not Phase.DEAD:  # a dead one is looked at when it is retried
            self._look(node, host)

    def _look(self, node: Node, host: Host) -> None:
        """Start a waiting member, or remove it, if all that decides its fate is known."""
        if node.barred:
            self._remove(node, Phase.GONE, CANCELLED, host)
        elif node.lost is Phase.GONE:
            self._remove(node, Phase.GONE, AFTER_GONE, host)
        elif node.lost is Phase.SKIPPED:
            self._remove(node, Phase.SKIPPED, _AFTER_SKIPPED, host)
        elif not node.left:
            if node.place.when == "failed" and not node.bad:
                self._remove(node, Phase.SKIPPED, _SKIPPED, host)
            else:
                self.enter(node, Phase.ACTIVE)
                host.start(node.id)
        elif (phase := Phase.STUCK if node.stuck else Phase.WAITING) is not node.phase:
            self.enter(node, phase)

    def _remove(self, node: Node, phase: Phase, reason: str, host: Host) -> None:
        self.enter(node, phase, reason)
        host.remove(node.id, reason)

    def _sweep(self, host: Host) -> None:
        """Look at one member of a cancelled flow."""
        if not self.nodes:
            self.nodes, self._kept, self._sweeping = self._kept, {}, False
            return
        job_id, node = self.nodes.popitem()
        self._kept[job_id] = node
        if node.phase is Phase.DEAD:
            self.enter(node, Phase.DEAD, node.reason)
            host.release(job_id)
        elif node.barred and not host.is_reserved(job_id):
            self._remove(node, Phase.GONE, CANCELLED, host)

    # -- operators ---------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Return whether the flow has ended."""
        counts = self.counts
        live = (
            counts[Phase.WAITING] or counts[Phase.STUCK] or counts[Phase.ACTIVE] or (counts[Phase.DEAD] and not self.cancelled)
        )
        return self.closed and not live and not self.has_work

    @property
    def is_at_rest(self) -> bool:
        """Return whether the flow has ended, or can go on only by the retry of a dead letter."""
        counts = self.counts
        return self.closed and not (counts[Phase.WAITING] or counts[Phase.ACTIVE] or self.has_work)

    @property
    def state(self) -> FlowState:
        if self.cancelled:
            return "cancelled"
        if not self.closed:
            return "open"
        return "failed" if self.counts[Phase.DEAD] else "done" if self.is_over else "running"

    def status(self, now: float) -> FlowStatus:
        """Return the state and progress."""
        counts = self.counts
        return FlowStatus(
            self.part.flow,
            self.state,
            self.part.name,
            self.total,
            counts[Phase.WAITING] + counts[Phase.STUCK],
            counts[Phase.ACTIVE],
            counts[Phase.DONE],
            counts[Phase.DEAD],
            counts[Phase.GONE] + counts[Phase.SKIPPED],
            self.created_at,
            self.ended_at,
            now,
        )

    def waiting_for(self, node: Node, most: int) -> tuple[str, ...]:
        """Return some of the targets that a member still waits for, dead ones first."""
        if not self.closed:
            return ("the last part of the flow",)
        bad: list[str] = []
        others: list[str] = []
        for after in node.place.after:
            target = self._target(after)
            if isinstance(target, Node):
                (bad if target.phase in _BAD else others).append(after.target)
            elif isinstance(target, Group) and target.end not in _FINAL:
                (bad if target.end else others).append(after.target)
        return tuple([*bad, *others][:most])

    def dismantle(self, most: int) -> bool:
        """Delete up to `most` entries of a flow that is no longer kept; return whether there are more."""
        for _ in range(min(most, len(self.stages))):
            self.stages.popitem()
        return bool(self.stages)
