"""The flow of a running job: `current_job().flow` and `current_job().results()`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..backends.base import Outgoing
from ..backends.flows import MOST_AFTER
from ..errors import FlowError, FlowLost
from ..flows.adding import Adder, check_label, refuse_foreign
from ..flows.handle import FlowHandle
from ..flows.members import All, FlowMember
from ..handle import JobHandle
from ..ids import new_token
from ..job_function import Call, Enqueuer, current_enqueuer
from ..units import shown
from . import context
from .context import JobContext

PAGE = 1000
"""Most results that are asked for in one call of the backend."""


class JobFlow(Adder):
    """The flow of a running job. What the job adds is sent with its acknowledgement, as follow-ups are."""

    def __init__(self, job: JobContext) -> None:
        self._job = job
        self.id: str = job._run.delivery.flow
        self.all: All = All(self.id)
        self._chosen = {job.id: -1}  # ids that `using` set → how many follow-ups came before; and the job's own

    @property
    def handle(self) -> FlowHandle:
        """Return the handle of the flow."""
        return FlowHandle(self._application(), self.id)

    def cancel(self, *, finale: bool = False) -> bool:
        """Cancel all other members that have not ended; this job is told like every running one. See `FlowHandle.cancel`."""
        return self.handle.cancel(finale=finale)

    def member(self, job_id: str, *, stage: str = "") -> FlowMember[Any]:
        """Return another member by its id, such as one that an argument names, for `after`, `results` and `.result`."""
        handle: JobHandle[Any] = JobHandle(self._application(), job_id, None, "", stores_result=True, created=False)  # type: ignore[arg-type]
        return FlowMember(job_id, self.id, stage, "member", handle)

    def group_stage(self, size: int) -> str | None:
        """Return no label, so that the group stands in this job's own stage, unless it is too large for that.

        What waits for the stage waits for the group then, and what is added to the stage may not wait for another one.
        """
        return f"group-{new_token()}" if size > MOST_AFTER else None

    def _application(self) -> Enqueuer:
        return context.worker_app or current_enqueuer()

    def _may_add(self) -> None:
        """Members can be added until the run ends; `_follow` checks that."""

    def _check(self, where: str, target: FlowMember[Any] | All | str) -> None:
        if isinstance(target, str):
            check_label(f"{where}: after", target)
        else:
            refuse_foreign(where, self.id, target)

    def _added(self) -> int:
        return len(self._job._run.followups or ())

    def _give_up(self, before: int) -> None:
        del (self._job._run.followups or [])[before:]
        self._chosen = {job_id: number for job_id, number in self._chosen.items() if number < before}

    def _own_stage(self, stage: str | None) -> str | None:
        return stage  # None: the backend uses that of the member that adds it

    def _put(self, call: Call[Any], outgoing: Outgoing, member: FlowMember[Any]) -> None:
        if outgoing.chosen:
            if member.id in self._chosen:
                what = "is this job's own" if member.id == self._job.id else "was given to another member that this job adds"
                raise FlowError(f"flow.add({member.job}): id: {shown(member.id)} {what}: the second would not be added")
            self._chosen[member.id] = self._added()
        member.handle.created = None
        self._job._follow(self._application(), call.job, outgoing, "or add it before that")

    def __repr__(self) -> str:
        return f"<JobFlow {self.id}>"


def results_of(job: JobContext) -> Iterator[tuple[str, Any]]:
    """Yield the ids and results that a job takes; see `JobContext.results`."""
    delivery = job._run.delivery
    if not delivery.flow:
        raise FlowError(f"{job.name} uses current_job().results(), but this job is not a member of a flow")
    return _pages(context.worker_app or current_enqueuer(), delivery.flow, job.id)


def _pages(app: Enqueuer, flow: str, job_id: str) -> Iterator[tuple[str, Any]]:
    record = app.operate(lambda backend: backend.get(job_id))
    if record is None or record.member is None:
        raise FlowLost(f"flow {flow} no longer has its member {job_id}: it was dropped")
    left = list(record.member.inputs)
    while left:
        page = left[:PAGE]
        found = app.operate(lambda backend: backend.flow_results(flow, page))  # noqa: B023 - called at once
        for member, stored in found:
            yield member, app.flow_result(flow, member, stored)
        last = found[-1][0] if found else page[-1]
        left = left[left.index(last) + 1 :] if found else left[len(page) :]
