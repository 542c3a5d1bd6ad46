"""Every call of the API, in one table: routes, checks of roles and the OpenAPI document are made from it."""

from __future__ import annotations

from typing import Any

from jobs_core.backends.flows import FlowStatus
from jobs_core.backends.limits import Limit
from jobs_core.machines import Do, MachineReport
from jobs_core.operating.producing import Enqueued, NewJob

from ..roles import Role
from . import dead, jobs, machines, schedule, things, waiting
from .bodies import acting, asking
from .operation import CURSOR, LIMIT, Operation

READ, OPERATE, ADMIN = Role.READ, Role.OPERATE, Role.ADMIN

STREAM = "text/event-stream"


class Job(dict[str, Any]):
    """A job: `id`, `topic`, `state`, and what else is known about it."""


def _ask(path: str, act: Any, about: str, answer: Any, role: Role | None = READ, query: Any = (), **more: Any) -> Operation:
    return Operation("GET", path, asking(act), role, about, answer, query=query, **more)


def _act(path: str, act: Any, about: str, answer: Any, role: Role = OPERATE, **more: Any) -> Operation:
    method = more.pop("method", "POST")
    return Operation(method, path, acting(act), role, about, answer, once=method == "POST", **more)


def _order(do: Do, about: str, body: Any) -> Operation:
    return Operation(
        "POST", f"/machines/{{machine}}/{do}", machines.commanding(do), ADMIN, about, machines.Commands, body=body,
        query=(machines.WAIT,), once=True,
    )  # fmt: skip


OPERATIONS: tuple[Operation, ...] = (
    _act(
        "/jobs", jobs.enqueue,
        "Enqueue a job; or, as NDJSON with a job on each line, up to 10,000, of which all are enqueued or none.",
        Enqueued, status=201, body=NewJob, lines=True, producers=True,
    ),
    Operation(
        "GET", "/jobs/{id}", waiting.show, READ,
        "Return a job; with `wait`, as soon as it has ended.", Job, query=(waiting.WAIT,), producers=True,
    ),
    Operation(
        "GET", "/jobs/{id}/events", waiting.stream, READ,
        "Return the events of a job as they come: state, progress, log. The stream ends with the job.",
        media=STREAM, producers=True,
    ),
    _act("/jobs/{id}/cancel", jobs.cancel, "Cancel a queued job, or ask a running one to end.", jobs.StateNow),
    _act(
        "/jobs/{id}/discard", jobs.discarded, "Move a queued job to the dead letters, from which it can run again.",
        jobs.StateNow, body=jobs.Why,
    ),
    _act("/jobs/{id}/retry", jobs.retry, "Run a dead or scheduled job now.", jobs.StateNow),
    _act(
        "/jobs/{id}", jobs.change, "Give a dead letter other arguments, or another topic; `retry` then runs it again.",
        Job, method="PATCH", body=jobs.Change,
    ),
    _act("/jobs/{id}", jobs.drop, "Delete a dead letter for good.", jobs.Done, ADMIN, method="DELETE"),
    _ask("/topics", things.topics, "List all topics with their jobs by state.", things.Topics),
    _ask("/topics/{topic}", things.topic, "Return a topic with its jobs by state.", things.TopicNow, producers=True),
    _act("/topics/{topic}/pause", things.pause, "Let no worker reserve jobs of a topic.", things.TopicNow),
    _act("/topics/{topic}/resume", things.resume, "Resume a paused topic.", things.TopicNow),
    _ask(
        "/topics/{topic}/jobs", jobs.listed, "List the jobs of a topic in one state; state=dead are its dead letters.",
        jobs.Page, query=(jobs.STATE, LIMIT, CURSOR), producers=True,
    ),
    _ask(
        "/topics/{topic}/dead-groups", dead.groups, "Count the dead letters of a topic by what went wrong.", dead.Groups,
        producers=True,
    ),
    _act(
        "/topics/{topic}/dead-groups/retry", dead.retry_group,
        "Run the oldest dead letters of a group again, at most 1,000; repeat it while `changed` is not 0.",
        jobs.Done, query=(dead.GROUP,),
    ),
    _ask(
        "/dead-actions", dead.actions, "List actions on dead letters, newest first: those that go on, and those of a week.",
        dead.Actions,
    ),
    _ask("/dead-actions/{id}", dead.action, "Return how far an action on dead letters is.", dead.ActionNow),
    _act(
        "/dead-actions/retry", dead.retry,
        "Let the supervisors run a group of dead letters again, or all of some topics, perhaps at a rate, in another topic.",
        dead.ActionNow, status=202, body=dead.NewAction,
    ),
    _act(
        "/dead-actions/drop", dead.drop, "Let the supervisors delete a group of dead letters, or all of some topics, for good.",
        dead.ActionNow, ADMIN, status=202, body=dead.NewAction,
    ),
    _act(
        "/dead-actions/{id}", dead.cancel, "Cancel an action on dead letters: the batch that is under way is its last one.",
        jobs.Done, method="DELETE",
    ),
    _ask("/flows", things.flows, "List flows, the failed ones first.", things.Flows, query=(LIMIT, CURSOR)),
    _ask("/flows/{id}", things.flow, "Return a flow with its progress.", FlowStatus),
    _ask("/flows/{id}/members", things.members, "List the members of a flow.", things.Members, query=(LIMIT, CURSOR)),
    _act("/flows/{id}/cancel", things.cancel_flow, "Cancel all members that have not ended.", FlowStatus),
    _act("/flows/{id}/retry", things.retry_flow, "Run the dead members of a flow again, at most 1,000.", jobs.Done),
    _ask("/limits", things.limits, "List the limits in use, closed or overridden.", things.Limits),
    _act(
        "/limits/{limit}", things.set_limit, "Override a limit, or one value of it, until it is reset.",
        Limit, ADMIN, method="PUT", body=things.NewLimit,
    ),
    _act("/limits/{limit}", things.reset_limit, "End the override of a limit.", jobs.Done, ADMIN, method="DELETE"),
    _ask("/schedule", schedule.entries, "List the schedule.", schedule.Entries),
    _ask("/schedule/{name}", schedule.entry, "Return an entry of the schedule.", schedule.EntryNow),
    _act(
        "/schedule/{name}", schedule.put, "Add an entry, or replace one that was made at run time; a pause stays.",
        schedule.EntryNow, ADMIN, method="PUT", body=schedule.NewEntry,
    ),
    _act(
        "/schedule/{name}", schedule.remove, "Remove an entry that was made at run time.", jobs.Done, ADMIN, method="DELETE"
    ),
    _act("/schedule/{name}/run", schedule.run, "Enqueue the job of an entry now.", Enqueued, status=201),
    _act("/schedule/{name}/pause", schedule.pause, "Enqueue no ticks of an entry.", schedule.EntryNow, ADMIN),
    _act("/schedule/{name}/resume", schedule.resume, "Enqueue its ticks again.", schedule.EntryNow, ADMIN),
    _ask("/machines", machines.machines, "List the machines with their pools and running jobs.", machines.Machines),
    _ask("/machines/{machine}", machines.machine, "Return what a machine has reported within 30 s.", MachineReport),
    _order("quiet", "Take no new jobs on a machine, all of a host, or all (*).", machines.Where),
    _order("resume", "Take jobs again on a machine, all of a host, or all (*).", machines.Where),
    _order("reload", "Load the installed code and configuration on a machine, all of a host, or all (*).", machines.Where),
    _order("stacks", "Write the stacks of workers to files in the run directory of their machine.", machines.Where),
    _order("scale", "Set the size of a pool, or reset it, on a machine, all of a host, or all (*).", machines.Size),
    _ask(
        "/stats", things.stats, "Return what workers did: runs, failures and times, in all, by topic and over time.",
        things.Stats, query=(things.SINCE, things.TOPIC),
    ),
    _ask("/health", things.health, "Tell whether the backend answers; needs no token.", things.Health, None),
)  # fmt: skip
