"""The members of a flow as an application refers to them, and what they wait for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

from msgspec import Struct

from ..backends.flows import ALL, MOST_AFTER, After
from ..errors import FlowError
from ..handle import JobHandle
from ..placeholders import Placeholder, Source
from ..units import shown

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class All(Struct, frozen=True):
    """The body of a flow: all members but those that wait for it, directly or through others."""

    flow: str

    def __repr__(self) -> str:
        return "<all members of the flow>"


class FlowMember(Struct, Generic[T], eq=False):
    """A job of a flow. Its id is known before it is sent."""

    id: str
    flow: str
    stage: str
    job: str
    handle: JobHandle[T]

    @property
    def result(self) -> T:
        """Return what stands for the result of this job: pass it to `call` of a job that is added to the same flow.

        That job then waits for this one. Every other use raises FlowError, and so does a job that stores no result.
        """
        if not self.handle.stores_result:
            raise FlowError(
                f"{self.job} does not store its result, so no other member can take it: use @job(store_result=True), "
                f"using(store_result=True) or topics.{self.handle.topic}.store_result = true"
            )
        return cast(T, Placeholder(Source(self.flow, self.id, self.job, self.stage)))

    def __repr__(self) -> str:
        return f"<FlowMember {self.id} {self.job} of flow {self.flow}>"


class Tail(Struct, Generic[T], eq=False):
    """The end of a chain or group that was added to a flow; `after` takes it like a member."""

    ends: list[FlowMember[Any]]
    many: bool  # it is a group, whose result is a list
    targets: list[After]
    flow: str
    parts: list[Tail[Any]]
    added: int = 0  # the number of members

    @property
    def result(self) -> T:
        """Return what stands for the result, as `FlowMember.result` does: for a group, a list in the order of the group."""
        if self.many:
            return cast(T, [part.result for part in self.parts])
        return cast(T, self.ends[0].result)


class Ended(Struct, frozen=True):
    """A target whose end is enough, whether it is done or not."""

    target: FlowMember[Any] | Tail[Any] | All | str


def ended(target: FlowMember[Any] | Tail[Any] | All | str) -> Ended:
    """Return a target for `after` that counts as soon as it has ended: done, dead or cancelled."""
    if isinstance(target, Ended):
        return target
    return Ended(target)


Target: TypeAlias = "FlowMember[Any] | Tail[Any] | Ended | All | str"
"""A member, the end of a chain or group, a stage by its label, or `flow.all`."""

Targets: TypeAlias = "Target | Iterable[Target]"


def targets_of(where: str, after: Targets, check: Callable[[FlowMember[Any] | All | str], None]) -> list[After]:
    """Return the targets that `after` names, each once; `check` raises FlowError for a foreign or unknown one."""
    given = [after] if isinstance(after, (FlowMember, Tail, Ended, All, str)) else after
    if not isinstance(given, Iterable):
        raise _no_target(where, given)
    found: dict[tuple[str, str], After] = {}
    for each in given:
        any_end = isinstance(each, Ended)
        target = each.target if isinstance(each, Ended) else each
        if isinstance(target, Tail):
            for end in target.ends:
                check(end)
            ways = [After(way.target, way.kind, any_end or way.ended) for way in target.targets]
        elif isinstance(target, (FlowMember, All, str)):
            check(target)
            ways = [_after(target, any_end)]
        else:
            raise _no_target(where, target)
        for way in ways:
            earlier = found.get((way.kind, way.target))
            if earlier is not None and earlier.ended != way.ended:
                raise FlowError(f"{where}: after names {way.target} with and without ended(): name it once")
            found[(way.kind, way.target)] = way
    return list(found.values())


def _after(target: FlowMember[Any] | All | str, any_end: bool) -> After:
    if isinstance(target, str):
        return After(target, "stage", any_end)
    return After(ALL, "all", any_end) if isinstance(target, All) else After(target.id, "job", any_end)


def _no_target(where: str, given: object) -> FlowError:
    return FlowError(
        f"{where}: after: expected what flow.add returned, the label of a stage, flow.all, or a list of these, got "
        f"{shown(given)}"
    )


def refuse_many(where: str, after: Iterable[After]) -> None:
    """Raise FlowError if a member is after more targets than a backend takes."""
    found = list(after)
    if len(found) > MOST_AFTER:
        raise FlowError(
            f"{where}: after: it would wait for {len(found):,} members, and {MOST_AFTER:,} is the most: add them with "
            'stage="name", and wait for all of them with after="name"'
        )
