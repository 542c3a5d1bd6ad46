"""`flow.add`: check a call and what it waits for, and make a member of it; for flows and for the flow of a running job."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, overload

from msgspec.structs import replace

from ..backends.base import Outgoing
from ..backends.flows import MOST_AFTER, After, Member, When
from ..errors import FlowError, JobDefinitionError
from ..job_function import Call, Enqueuer, JobFunction
from ..placeholders import Source, Taken, taken
from ..units import shown
from .members import All, Ended, FlowMember, Tail, Target, Targets, refuse_many, targets_of
from .work import NOTHING, Chain, Group, add_work

T = TypeVar("T")

MAX_LABEL = 128
"""Most characters of the label of a stage, and of the name of a flow."""

WHENS = ("done", "ended", "failed")


class Adder(abc.ABC):
    """The part of a flow that takes members."""

    id: str

    @overload
    def add(
        self, work: Call[T], *, after: Targets = (), when: When = "done", stage: str | None = None, results: Targets = ()
    ) -> FlowMember[T]: ...

    @overload
    def add(
        self, work: Chain[T], *, after: Targets = (), when: When = "done", stage: str | None = None, results: Targets = ()
    ) -> Tail[T]: ...

    @overload
    def add(
        self, work: Group[T], *, after: Targets = (), when: When = "done", stage: str | None = None, results: Targets = ()
    ) -> Tail[list[T]]: ...

    def add(
        self, work: Any, *, after: Targets = (), when: When = "done", stage: str | None = None, results: Targets = ()
    ) -> Any:
        """Add a job to the flow: `job.call(...)`, or a chain or group of jobs.

        It waits for everything in `after`: members, stages by their label, or `flow.all`; each may be `ended(...)`.
        `when="done"` runs it if all of these are done, "ended" when all have ended, and "failed" only if one of them is not
        done. An argument may be the `.result` of a member, which is then waited for, too. `results` names members whose
        results the job reads with `current_job().results()`. `stage` is a label under which others wait for it.
        Raises FlowError, and the errors of `JobFunction.enqueue` for arguments and options.
        """
        self._may_add()
        where = f"flow.add({_name(work)})"
        if when not in WHENS:
            raise FlowError(f'{where}: when: expected "done", "ended" or "failed", got {shown(when)}')
        if stage is not None:
            check_label(f"{where}: stage", stage)
        targets = self._present(where, targets_of(where, after, lambda target: self._check(where, target)))
        wanted = self._sources(where, results) if results != () else []
        if isinstance(work, Call):
            return self.add_call(work, targets, when=when, stage=stage, results=wanted)
        if not isinstance(work, (Chain, Group)):
            raise _no_work(where, work)
        before = self._added()
        try:
            tail = add_work(self, work, targets, NOTHING, when=when, stage=stage, results=wanted)
        except BaseException:
            if self._added() > before:
                self._give_up(before)
            raise
        if stage is not None:
            self._named(stage, tail.targets)
        return tail

    def add_call(
        self,
        call: Call[T],
        after: list[After],
        *,
        when: When = "done",
        stage: str | None = None,
        results: Sequence[Source] = (),
    ) -> FlowMember[T]:
        """Add one call after targets that were checked."""
        name = call.job.name
        where = f"flow.add({name})"
        takes = taken(name, call.args, call.kwargs)
        sources = [*(takes.sources if takes else ()), *results]
        after = self._waiting_for(where, after, when, takes, sources, stage)
        refuse_many(where, after)
        self._refuse_stage(where, stage, after)
        self._refuse_moment(where, call.job, after)
        outgoing, handle = self._application().prepare_member(call, takes, self._headers())
        inputs = tuple(dict.fromkeys(source.id for source in sources))
        member = Member(self.id, self._own_stage(stage), tuple(after), when, inputs, name)
        made = FlowMember(handle.id, self.id, stage or "", name, handle)
        self._put(call, replace(outgoing, member=member), made)
        return made

    def _waiting_for(
        self,
        where: str,
        after: list[After],
        when: When,
        takes: Taken | None,
        sources: Sequence[Source],
        stage: str | None,
    ) -> list[After]:
        """Return the targets, with the members whose results are taken; refuse a result that may then not exist.

        If these are too many, the stages that contain them stand for them.
        """
        waits = {each.target: each for each in after if each.kind == "job"}
        stages = {each.target: each for each in after if each.kind == "stage"}
        arguments = {source.id for source in takes.places.values()} if takes else set()
        added: dict[str, After] = {}
        for source in sources:
            if source.flow != self.id:
                raise _foreign(where, f"the result of {source.job} {source.id}")
            way = waits.get(source.id) or (stages.get(source.stage) if source.stage else None) or added.get(source.id)
            if way is None:
                way = added[source.id] = After(source.id)
            if source.id in arguments and (when != "done" or way.ended):
                reason = f'when="{when}"' if when != "done" else "ended()"
                raise FlowError(
                    f"{where}: it takes the result of {source.job}, which may not be there with {reason}: pass "
                    "results=[member] instead of member.result, and read what is there with current_job().results()"
                )
        if len(after) + len(added) > MOST_AFTER:
            added = _by_stages(added, sources, stage)
        return [*after, *added.values()]

    def _refuse_moment(self, where: str, job: JobFunction[Any, Any, Any], after: Sequence[After]) -> None:
        if after and isinstance(job.overrides.at, float):
            raise FlowError(
                f"{where}: at: a delay counts from when the member may run, so a point in time cannot be kept: use delay, or "
                "wait for nothing"
            )

    def _sources(self, where: str, results: Targets) -> list[Source]:
        """Return the members that `results` names; a stage stands for those that were added to it so far."""
        given: Iterable[Target] = [results] if isinstance(results, (FlowMember, Tail, str)) else results  # type: ignore[assignment]
        found: list[Source] = []
        for each in given:
            if isinstance(each, (Ended, All)) or not isinstance(each, (FlowMember, Tail, str)):
                raise FlowError(f"{where}: results: expected members or labels of stages, got {shown(each)}")
            members: Iterable[FlowMember[Any]]
            if isinstance(each, Tail):
                members = each.ends
            elif isinstance(each, str):
                self._check(where, each)
                members = self._members_of(where, each)
            else:
                members = [each]
            for member in members:
                self._check(where, member)
                if not member.handle.stores_result:
                    _ = member.result  # raises the error that says how to store it
                found.append(Source(member.flow, member.id, member.job, member.stage))
        return found

    @abc.abstractmethod
    def _application(self) -> Enqueuer: ...

    @abc.abstractmethod
    def _may_add(self) -> None:
        """Raise FlowError if no member can be added now."""

    @abc.abstractmethod
    def _check(self, where: str, target: FlowMember[Any] | All | str) -> None:
        """Raise FlowError for a target that this flow does not have."""

    def _present(self, where: str, targets: list[After]) -> list[After]:
        """Return the targets with each stage that is known to be empty replaced by what its empty groups are after."""
        return targets

    def _named(self, stage: str, targets: list[After]) -> None:  # noqa: B027 - the default
        """Note that work was added to a stage, perhaps an empty group, which ends with these targets."""

    def _members_of(self, where: str, stage: str) -> Sequence[FlowMember[Any]]:
        raise FlowError(f"{where}: results: the members of stage {stage!r} are not known here: name them")

    def _refuse_stage(self, where: str, stage: str | None, after: Sequence[After]) -> None:  # noqa: B027 - the default
        """Raise FlowError if a member that is after these cannot be added to a stage."""

    def _own_stage(self, stage: str | None) -> str | None:
        return stage or ""

    def _headers(self) -> Mapping[str, Any]:
        return {}

    @abc.abstractmethod
    def _put(self, call: Call[Any], outgoing: Outgoing, member: FlowMember[Any]) -> None:
        """Keep a member to be sent."""

    @abc.abstractmethod
    def _added(self) -> int:
        """Return how many members are kept to be sent."""

    @abc.abstractmethod
    def _give_up(self, before: int) -> None:
        """See to it that the members after the first `before`, a part of a chain or group, are not sent."""

    @abc.abstractmethod
    def group_stage(self, size: int) -> str | None:
        """Return the label of a stage for a group of this size that was given none; None: wait for its members one by one."""


def check_label(where: str, label: object) -> None:
    """Raise FlowError unless a value can be the label of a stage."""
    if not isinstance(label, str) or not 0 < len(label) <= MAX_LABEL or not label.isprintable():
        raise FlowError(f"{where}: expected 1 to {MAX_LABEL} printable characters, got {shown(label)}")


def refuse_foreign(where: str, flow: str, target: FlowMember[Any] | All) -> None:
    """Raise FlowError for a target of another flow."""
    if target.flow != flow:
        raise _foreign(where, repr(target))


def _by_stages(targets: Mapping[str, After], sources: Iterable[Source], own: str | None) -> dict[str, After]:
    """Return the targets, which are members by id, with those that are in another stage than `own` replaced by their stages."""
    stages = {source.id: source.stage for source in sources if source.stage != own}
    found: dict[str, After] = {}
    for job_id, target in targets.items():
        stage = stages.get(job_id)
        if stage:
            found.setdefault(f"stage {stage}", After(stage, "stage"))
        else:
            found[job_id] = target
    return found


def _foreign(where: str, what: str) -> FlowError:
    return FlowError(f"{where}: {what} belongs to another flow: a member can only wait for members of its own flow")


def _name(work: object) -> str:
    if isinstance(work, JobFunction):
        return work.name
    if isinstance(work, Call):
        return work.job.name
    return type(work).__name__.lower() if isinstance(work, (Chain, Group)) else "..."


def _no_work(where: str, work: object) -> JobDefinitionError:
    fix = (
        f"write flow.add({work.name.rpartition('.')[2]}.call(...))" if isinstance(work, JobFunction) else "write job.call(...)"
    )
    if work is None or inspect.iscoroutine(work):
        fix += "; job(...) calls the function here and now"
    return FlowError(f"{where}: expected a call, a chain or a group, got {shown(work)}: {fix}")
