"""`Flow`: collect members, and send them together at the end of a `with` block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, TypeVar

from ..backends.base import Outgoing
from ..backends.flows import After, Part
from ..errors import FlowError
from ..ids import new_id
from ..job_function import Call, Enqueuer, JobFunction, current_enqueuer
from ..options import parse
from ..units import DurationLike, seconds, shown
from .adding import Adder, check_label, refuse_foreign
from .handle import FlowHandle, WorkHandle
from .members import All, FlowMember, Tail

T = TypeVar("T")

PART_SIZE: Final = 1000
"""Most messages of one part."""

PART_BYTES: Final = 4_000_000
"""Bytes of payloads above which a part takes no further message."""

PART_TARGETS: Final = 10_000
"""Ids and stages that the messages of one part wait for; each costs a broker about 3 µs."""


class Flow(Adder):
    """Jobs that wait for one another; sent at the end of a `with` or `async with` block.

    An exception in the block sends nothing. No member runs before all are stored. `headers` go to every member that does not
    set them itself. The flow is kept for `ttl` (one day) after its end. A flow of more than a thousand members is sent in
    parts, and dropped if none arrives for `open_for` (one hour). With `transaction`, a connection or session of the application
    on the database in which the jobs are stored, the flow exists if and only if the transaction that is open there commits.
    """

    def __init__(
        self,
        name: str = "",
        *,
        headers: Mapping[str, Any] | None = None,
        ttl: DurationLike | None = None,
        open_for: DurationLike | None = None,
        transaction: object = None,
    ) -> None:
        if name != "":
            check_label("Flow: name", name)
        self.id: str = new_id()
        self.name: Final = name
        self.all: Final = All(self.id)
        defaults = Part("")
        self._ttl = _duration("ttl", ttl, defaults.ttl)
        self._open_for = _duration("open_for", open_for, defaults.open_for)
        self._given_headers: Mapping[str, Any] = {} if headers is None else _headers(headers)
        self._transaction = transaction
        self._phase = "new"
        self._source: Enqueuer | None = None
        self._outgoing: list[Outgoing] = []
        self._ids: set[str] = set()
        self._jobs: dict[JobFunction[Any, Any, Any], None] = {}
        self._stages: dict[str, list[FlowMember[Any]]] = {}
        self._empty: dict[str, list[After]] = {}  # stages of empty groups alone, and what these are after
        self._awaited: dict[str, str] = {}  # the stages for which something waits, and what
        self._final: set[str] = set()  # ids of the members of the finale
        self._final_stages: set[str] = set()
        self._chosen: set[str] = set()  # ids that `using` set
        self._groups = 0

    @property
    def handle(self) -> FlowHandle:
        """Return the handle of the flow; its id is known before the flow is sent."""
        return FlowHandle(self._application(), self.id, self.name)

    def handle_of(self, tail: Tail[T]) -> WorkHandle[T]:
        """Return the handle of a flow that consists of one chain or group."""
        ends = [end.handle for end in tail.ends]
        return WorkHandle(self._application(), self.id, self.name, ends, tail.many, list(tail.parts))

    # -- the block -------------------------------------------------------------------------------

    def __enter__(self) -> Flow:
        if self._phase != "new":
            raise FlowError(f"flow {self.name or self.id} was used before: make a new Flow for each block")
        self._phase = "open"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._ends(error):
            self._application().push_flow(self._parts(), self._jobs, self._transaction)

    async def __aenter__(self) -> Flow:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ends(error):
            await self._application().apush_flow(self._parts(), self._jobs, self._transaction)

    def _ends(self, error: BaseException | None) -> bool:
        refused = self._phase == "refused"
        self._phase = "sent" if error is None and not refused else "dropped"
        if refused and error is None:
            raise FlowError(
                f"flow {self.name or self.id} was not sent: an exception in flow.add has left a chain or group in it incomplete"
            )
        if error is not None:
            self._outgoing.clear()
        return error is None

    def _added(self) -> int:
        return len(self._outgoing)

    def _give_up(self, before: int) -> None:
        self._phase = "refused"

    def _parts(self) -> list[tuple[Part, list[Outgoing]]]:
        groups = list(_cut(self._outgoing)) or [[]]
        self._outgoing = []
        return [
            (Part(self.id, n, n == len(groups) - 1, self.name, self._ttl, self._open_for), group)
            for n, group in enumerate(groups)
        ]

    # -- members ---------------------------------------------------------------------------------

    def _application(self) -> Enqueuer:
        if self._source is None:
            self._source = current_enqueuer()
        return self._source

    def _may_add(self) -> None:
        if self._phase == "new":
            raise FlowError(
                "flow.add: the flow was not begun: write `with Flow(...) as flow:`, and add its members in the block"
            )
        if self._phase == "refused":
            raise FlowError("flow.add: a chain or group in this flow is incomplete, because adding it raised: make a new Flow")
        if self._phase != "open":
            raise FlowError(
                f"flow.add: flow {self.name or self.id} was {self._phase} at the end of its block; a job of the flow can add "
                "more with current_job().flow.add(...)"
            )

    def _check(self, where: str, target: FlowMember[Any] | All | str) -> None:
        if not isinstance(target, str):
            refuse_foreign(where, self.id, target)
        elif target in self._ids:
            raise FlowError(
                f"{where}: after: {shown(target)} is the id of a member, and a text names a stage: pass what flow.add returned"
            )
        elif target not in self._stages and target not in self._empty:
            known = ", ".join(map(repr, [*self._stages, *self._empty][:10])) or "none"
            raise FlowError(
                f"{where}: after: the flow has no stage {shown(target)} (so far: {known}): add its members before what waits "
                'for them, with stage="..."'
            )

    def _members_of(self, where: str, stage: str) -> Sequence[FlowMember[Any]]:
        return self._stages.get(stage, ())

    def _present(self, where: str, targets: list[After]) -> list[After]:
        if not self._empty:
            return targets
        found: dict[tuple[str, str], After] = {}
        for each in targets:
            ways = [each]
            if each.kind == "stage" and each.target in self._empty:
                self._awaited.setdefault(each.target, f"{where} waits")
                ways = [After(way.target, way.kind, each.ended or way.ended) for way in self._empty[each.target]]
            for way in ways:
                earlier = found.get((way.kind, way.target))
                if earlier is None or earlier.ended:
                    found[way.kind, way.target] = way
        return list(found.values())

    def _named(self, stage: str, targets: list[After]) -> None:
        if stage not in self._stages:
            self._empty.setdefault(stage, []).extend(targets)

    def _headers(self) -> Mapping[str, Any]:
        return self._given_headers

    def group_stage(self, size: int) -> str:
        while True:
            self._groups += 1
            if (label := f"group-{self._groups}") not in self._stages and label not in self._empty:
                return label

    def _refuse_stage(self, where: str, stage: str | None, after: Sequence[After]) -> None:
        """Raise FlowError if a member cannot be added to a stage: something waits for it, or it has members of another kind.

        So nothing can wait for itself: a member is after what was added before it.
        """
        if not stage:
            return
        if stage in self._awaited or any(each.kind == "stage" and each.target == stage for each in after):
            waits = self._awaited.get(stage, "it would itself wait")
            raise FlowError(
                f"{where}: stage: {waits} for stage {stage!r}, which has to be complete by then: add all its members "
                "first, or use another label"
            )
        if stage in self._stages and self._is_final(after) != (stage in self._final_stages):
            raise FlowError(
                f"{where}: stage: stage {stage!r} would have members that wait for flow.all and others that do not: use two "
                "labels"
            )

    def _is_final(self, after: Sequence[After]) -> bool:
        """Return whether a member that is after these belongs to the finale: it waits, also through others, for flow.all."""
        for each in after:
            if each.kind == "all" or each.target in (self._final if each.kind == "job" else self._final_stages):
                return True
        return False

    def _put(self, call: Call[Any], outgoing: Outgoing, member: FlowMember[Any]) -> None:
        assert outgoing.member is not None
        if member.id in self._ids:
            raise FlowError(f"flow.add({member.job}): id: the flow has a member with the id {shown(member.id)} already")
        self._ids.add(member.id)
        after = outgoing.member.after
        if outgoing.chosen:
            if member.id in self._chosen:
                raise FlowError(f"flow.add({member.job}): id: the flow has a member with the id {member.id!r} already")
            self._chosen.add(member.id)
        if self._is_final(after):
            self._final.add(member.id)
        if member.stage:
            self._empty.pop(member.stage, None)
            self._stages.setdefault(member.stage, []).append(member)
            if member.id in self._final:
                self._final_stages.add(member.stage)
        for each in after:
            if each.kind == "stage":
                self._awaited.setdefault(each.target, f"{member.job} {member.id} waits")
        self._outgoing.append(outgoing)
        self._jobs[call.job] = None

    def __repr__(self) -> str:
        return f"<Flow {self.id} {self.name}>".replace(" >", ">")


def _cut(outgoing: list[Outgoing]) -> Iterator[list[Outgoing]]:
    """Yield the messages in groups of at most PART_SIZE, and about PART_BYTES and PART_TARGETS."""
    start = size = targets = 0
    for n, message in enumerate(outgoing):
        own = len(message.member.after) if message.member else 0
        full = n - start == PART_SIZE or size + len(message.payload) > PART_BYTES or targets + own > PART_TARGETS
        if n > start and full:
            yield outgoing[start:n]
            start, size, targets = n, 0, 0
        size, targets = size + len(message.payload), targets + own
    if start < len(outgoing):
        yield outgoing[start:]


def _headers(value: Mapping[str, Any]) -> Mapping[str, Any]:
    headers = parse("Flow", {"headers": value}).headers
    assert isinstance(headers, dict)
    return headers


def _duration(name: str, value: DurationLike | None, default: float) -> float:
    if value is None:
        return default
    with contextlib.suppress(ValueError, TypeError):
        found = float(seconds(value))
        if found > 0:
            return found
    raise FlowError(f'Flow: {name}: expected a duration above zero, such as "1h", got {shown(value)}')
