"""Flows: jobs that wait for one another, and the rules that every backend with the feature `flows` keeps.

A flow has members. Each member is a job that waits for its *targets*: the members and stages that it is `after`, or ALL. It is
WAITING until all its targets have ended; then it becomes ready, or due after its delay. A member is in the *finale* if it is
after ALL, after a member or stage of the finale, or was added by a member of the finale; the others are the *body*. The members
of one stage are all in the finale or all in the body.

*No cycles.* A member is after members and stages that were added before it. Once a member is after a stage, no part adds to
that stage. A running member may add to its own stage, but only members that are after nothing that may wait for that stage. A
part that breaks these rules is refused as a whole.

*A refused addition.* An addition by a running member that breaks these rules, or whose unique key another job holds, becomes a
dead letter that says why, because the settlement of the running member is not undone. With `conflict="replace"`, the addition
takes the key from a waiting job that is in no flow; otherwise it is refused, whatever its `conflict`. A refused addition takes
no key, replaces nothing, waits for nothing, and cannot be retried. So what needs it is stuck until it is dropped, and is
cancelled then.

*The end of a target.* A member has ended when it is done, dead, gone (cancelled, replaced, purged, dropped, trimmed), skipped,
or *stuck*: it waits for a target that is dead or stuck. A stage has ended when the flow is closed and each of its members has
ended; it is done if each is done or skipped. ALL has ended when the flow is closed and each member of the body has ended, so
that no member of the body is ready, limited, scheduled or reserved, and none can become ready; it is done if each is done or
skipped. A target that does not exist any more when a running member names it counts as done.

*What the end of a target means for a member that is after it.* With `ended`, the member no longer waits for this target,
however it ended. Otherwise, the member waits until the target is done. If the target is gone, the member is cancelled with that
reason, which may cancel further members. If the target was skipped, the member is skipped. If the target is dead or stuck, the
member is stuck until a dead letter is retried. A member with `when="failed"` waits for the end of all its targets; then it runs
if at least one of them is dead, stuck or gone, and is skipped otherwise. An end takes effect once: a member that it made ready
does not run again when a dead letter is retried later.

*A dead letter* of a flow is kept whatever `dead_max` says, and for `dead_keep` from the flow's last failure. If it is retried
while one of its targets has not ended, it waits again.

*A cancelled flow.* Once the cancellation has returned, no member starts; dead letters of the flow cannot be retried, and count
as gone. Later steps remove the members. An open flow that is dropped is cancelled.

*Steps.* Each settlement changes the counters of its flow, stage and dependents (the members that are after its job) in its own
step, after its own additions. If a target has more than SLICE dependents, the step decides about SLICE of them; the next calls
that reserve, settle or keep house decide about the rest. Until then, neither a stage nor the flow ends.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from msgspec import Struct

from ..errors import BackendError

SLICE: Final = 1000
"""Most dependents that are decided in one step."""

MOST_AFTER: Final = 1000
"""Most ids and stages that one member is after."""

ALL: Final = "*"
"""The target that stands for the body of the flow."""

When: TypeAlias = Literal["done", "ended", "failed"]


class After(Struct, frozen=True):
    """A target that a member waits for: a member by id, a stage by its label, or ALL."""

    target: str
    kind: Literal["job", "stage", "all"] = "job"
    ended: bool = False  # any end will do


class Member(Struct, frozen=True):
    """The place of a job in a flow; a field of `Outgoing`."""

    flow: str
    stage: str | None = ""  # None: the stage of the member that adds it
    after: tuple[After, ...] = ()
    when: When = "done"
    inputs: tuple[str, ...] = ()  # ids of the members whose results it takes: each is in `after`, or in a stage of `after`
    label: str = ""  # for people, such as the name of the job


_REFUSED: Final = "cannot be a member of flow"


def refusal(job_id: str, flow_id: str, why: str) -> BackendError:
    """Return the error for a job that cannot be a member; if a running member adds it, the reason of a dead letter."""
    return BackendError(f"{job_id} {_REFUSED} {flow_id}: {why}")


AFTER_GONE: Final = "a member that it waited for was cancelled or deleted"
"""The reason of a member that was cancelled because one that it needs is gone."""


def held_key(holder: str) -> str:
    """Say why a flow refuses an addition whose unique key another job holds."""
    return f"its unique key is held by {holder}"


def was_refused(job_id: str, reason: str) -> bool:
    """Return whether a dead letter with this reason was refused by its flow, so that it cannot be retried."""
    return reason.startswith(f"{job_id} {_REFUSED} ")


GIVE_UP_REFUSED: Final = (
    "its flow refused it, so it cannot be retried: enqueue the job anew, and drop the dead letter, which cancels what needs it"
)
"""What to do about a dead letter that was refused."""


def misplaced(job_id: str, member: Member) -> BackendError:
    """Return the error for a member in a plain push: its flow would not know of it."""
    return BackendError(f"{job_id} is a member of flow {member.flow}: push it with push_part; no job of this push was added")


class Part(Struct, frozen=True):
    """One of the numbered parts in which a flow is pushed."""

    flow: str
    number: int = 0  # from 0; parts are pushed in this order
    last: bool = True  # closes the flow: all parts with lower numbers must be there
    name: str = ""
    ttl: float = 86400.0  # seconds for which the flow is kept after its end
    open_for: float = 3600.0  # seconds without a new part after which an open flow is dropped


FlowState: TypeAlias = Literal["scheduled", "open", "running", "failed", "done", "cancelled"]
"""The state of a flow: scheduled while it is only in an outbox; open until its last part is there; failed while it has a dead
member; cancelled by an operator.

It is done once each member has ended and none is dead or stuck.
"""


class FlowStatus(Struct, frozen=True):
    """The state and the progress of a flow; the counts of members add up to `total`."""

    id: str
    state: FlowState
    name: str = ""
    total: int = 0
    waiting: int = 0
    active: int = 0  # ready, limited, scheduled or reserved
    done: int = 0
    dead: int = 0
    cancelled: int = 0  # and skipped, replaced, purged, dropped or trimmed
    created_at: float = 0.0
    ended_at: float | None = None
    broker_now: float = 0.0


MOST_LISTED: Final = 1000
"""Most members of a flow whose ends are kept for listings; a larger flow lists only its live members."""


class MemberStatus(Struct, frozen=True):
    """A member of a flow, for people."""

    id: str
    state: str  # the value of a State
    label: str = ""
    topic: str = ""
    stage: str = ""
    finale: bool = False
    after: tuple[After, ...] = ()
    when: When = "done"
    stuck: bool = False  # it waits for a target that is dead or stuck
    reason: str = ""  # dead or cancelled
