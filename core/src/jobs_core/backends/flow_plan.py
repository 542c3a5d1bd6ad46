"""Check new members of a flow against the rules of `flows.py`, for backends that are written in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from ..errors import BackendError
from .flows import MOST_AFTER, After, Member, refusal


class KnownMember(Protocol):
    """A member that has not ended for good."""

    @property
    def finale(self) -> bool: ...

    @property
    def stage(self) -> str: ...

    @property
    def order(self) -> int: ...


class KnownStage(Protocol):
    """A stage; `seal` is its order, from when something is after it."""

    @property
    def finale(self) -> bool: ...

    @property
    def seal(self) -> int | None: ...


class Planned(NamedTuple):
    """A new member with its stage."""

    id: str
    place: Member
    stage: str
    finale: bool


class Plan:
    """New members of one part, or one that a running member adds.

    Each is after members and stages that came before it, so that no cycle is possible. The exception is a running member
    that adds to its own stage while others wait for that stage. So members and stages are ordered: a stage comes before
    the first member that is after it, and what is added to it later may only be after what comes before the stage.
    """

    def __init__(
        self,
        flow_id: str,
        member: Callable[[str], KnownMember | None],
        stage: Callable[[str], KnownStage | None],
        ended_early: Callable[[str], bool],
        by: KnownMember | None = None,
    ) -> None:
        self._flow_id, self._member, self._stage, self._ended_early, self._by = flow_id, member, stage, ended_early, by
        self._planned: dict[str, Planned] = {}
        self._stages: dict[str, bool] = {}  # new ones → whether they are in the finale
        self._sealed: set[str] = set()

    def add(self, job_id: str, place: Member) -> Planned:
        """Add a member; raise BackendError if it cannot be."""
        if job_id in self._planned or self._member(job_id):
            raise self._refusal(job_id, "it is there already")
        if len(place.after) > MOST_AFTER:
            raise self._refusal(job_id, f"it is after {len(place.after)} members and stages: at most {MOST_AFTER}, use stages")
        by = self._by
        stage = place.stage if place.stage is not None else by.stage if by else ""
        finale = bool(by and by.finale)
        for after in place.after:
            finale = self._check_target(job_id, after, stage) or finale
            if after.kind == "stage":
                self._sealed.add(after.target)
        member = self._planned[job_id] = Planned(job_id, place, stage, finale)
        if stage:
            self._check_stage(member)
        self._check_inputs(member)
        return member

    def _check_target(self, job_id: str, after: After, stage: str) -> bool:
        """Return whether a target is in the finale; raise BackendError if there is none."""
        if after.kind == "all":
            return True
        if after.kind == "stage":
            if after.target == stage:
                raise self._refusal(job_id, f"it is after stage {stage}, in which it is itself")
            if after.target in self._stages:
                return self._stages[after.target]
            if group := self._stage(after.target):
                return group.finale
            raise self._refusal(job_id, f"it is after stage {after.target}, which has no members yet: add them first")
        member = self._planned.get(after.target) or self._member(after.target)
        if member is None and self._by is None and not self._ended_early(after.target):
            raise self._refusal(job_id, f"it is after {after.target}, which is no member yet: add it first")
        return member is not None and member.finale

    def _check_stage(self, member: Planned) -> None:
        stage, group, by = member.stage, self._stage(member.stage), self._by
        if (group.finale if group else self._stages.setdefault(stage, member.finale)) != member.finale:
            raise self._refusal(member.id, f"stage {stage} has members of the body, or of the finale: give it another stage")
        seal = group.seal if group else None
        if stage not in self._sealed and seal is None:
            return
        if by is None or by.stage != stage or seal is None:
            raise self._refusal(member.id, f"other members wait for stage {stage}: add its own members first")
        for after in member.place.after:
            if after.kind == "job":
                target = self._member(after.target)
                if target is not None and target.stage != stage and target.order >= seal:
                    raise self._refusal(member.id, f"{after.target} may wait for stage {stage}: give it another stage")
            elif after.kind == "stage" and (other := self._stage(after.target)) and (other.seal is None or other.seal >= seal):
                raise self._refusal(member.id, f"stage {after.target} may wait for stage {stage}: give it another stage")

    def _check_inputs(self, member: Planned) -> None:
        if not member.place.inputs:
            return
        targets = {after.target for after in member.place.after if after.kind == "job"}
        stages = {after.target for after in member.place.after if after.kind == "stage"}
        after_all = any(after.kind == "all" for after in member.place.after)
        for job_id in member.place.inputs:
            taken = self._planned.get(job_id) or self._member(job_id)
            if job_id in targets or taken is None or taken.stage in stages or (after_all and not taken.finale):
                continue
            raise self._refusal(member.id, f"it takes the result of {job_id}, but is not after it")

    def _refusal(self, job_id: str, why: str) -> BackendError:
        return refusal(job_id, self._flow_id, why)
