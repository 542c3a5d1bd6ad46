"""Every call of the API, in one table: routes, checks of roles and the OpenAPI document are made from it."""

from __future__ import annotations

from typing import Any

from jobs_core.backends.flows import FlowStatus
from jobs_core.backends.limits import Limit
from jobs_core.operating.producing import Enqueued, NewJob

from ..roles import Role
from . import jobs, things, waiting
from .bodies import acting, asking
from .operation import CURSOR, LIMIT, Operation

READ, OPERATE, ADMIN = Role.READ, Role.OPERATE, Role.ADMIN

STREAM = "text/event-stream"


class Job(dict[str, Any]):
    """A job: `id`, `topic`, `state`, and what else is known about it."""


def _ask(path: str, act: Any, about: str, answer: Any, role: Role | None = READ, query: Any = ()) -> Operation:
    return Operation("GET", path, asking(act), role, about, answer, query=query)


def _act(path: str, act: Any, about: str, answer: Any, role: Role = OPERATE, **more: Any) -> Operation:
    method = more.pop("method", "POST")
    return Operation(method, path, acting(act), role, about, answer, once=method == "POST", **more)


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
    _act("/jobs/{id}/retry", jobs.retry, "Run a dead or scheduled job now.", jobs.StateNow),
    _act("/jobs/{id}", jobs.drop, "Delete a dead letter for good.", jobs.Done, ADMIN, method="DELETE"),
    _ask("/topics", things.topics, "List all topics with their jobs by state.", things.Topics),
    _ask("/topics/{topic}", things.topic, "Return a topic with its jobs by state.", things.TopicNow),
    _act("/topics/{topic}/pause", things.pause, "Let no worker reserve jobs of a topic.", things.TopicNow),
    _act("/topics/{topic}/resume", things.resume, "Resume a paused topic.", things.TopicNow),
    _ask(
        "/topics/{topic}/jobs", jobs.listed, "List the jobs of a topic in one state; state=dead are its dead letters.",
        jobs.Page, query=(jobs.STATE, LIMIT, CURSOR),
    ),
    _ask("/topics/{topic}/dead-groups", things.groups, "Count the dead letters of a topic by what went wrong.", things.Groups),
    _act(
        "/topics/{topic}/dead-groups/retry", things.retry_group,
        "Run the oldest dead letters of a group again, at most 1,000; repeat it while `changed` is not 0.",
        jobs.Done, query=(things.GROUP,),
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
    _ask("/schedule", things.schedule, "List the schedule.", things.Entries),
    _act("/schedule/{name}/pause", things.pause_entry, "Enqueue no ticks of an entry.", things.EntryNow | None, ADMIN),
    _act("/schedule/{name}/resume", things.resume_entry, "Enqueue its ticks again.", things.EntryNow | None, ADMIN),
    _ask("/machines", things.machines, "List the machines with their pools and running jobs.", things.Machines),
    _ask(
        "/stats", things.stats, "Return what workers did: runs, failures and times, in all, by topic and over time.",
        things.Stats, query=(things.SINCE, things.TOPIC),
    ),
    _ask("/health", things.health, "Tell whether the backend answers; needs no token.", things.Health, None),
)  # fmt: skip
