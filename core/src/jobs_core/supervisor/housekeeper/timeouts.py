"""Settle a job whose worker had to be killed for the job's timeout: the run counts as an attempt.

The courier does this by itself if it can (`Courier._end_stubborn`). Code that holds the GIL stops the courier, too; then
the housekeeper claims the job from the dead owner and settles it. If the backend lacks `claim`, the worker's death is
counted instead, as for any crash.
"""

from __future__ import annotations

from ...app import App
from ...backends.base import Backend, Delivery, Settlement, State
from ...errors import JobInterrupted, JobsError, JobTimeout, NotSupported
from ...ids import new_token
from ...message import decode
from ...runs.outcome import settlement
from ...runs.run import Run
from ...worker.on_end import policy_of
from ...worker.settlements import push_followups


def settle(app: App, backend: Backend, owner: str, job_id: str, reason: str, stacks: str) -> bool:
    """Settle a dead owner's run as timed out; return False if that is impossible, or the job is not the owner's.

    A second call does no harm. Raises BackendUnavailable, and the backend's other errors.
    """
    try:
        record = backend.get(job_id)
        if record is None or record.state is not State.RESERVED or record.owner != owner:
            return False
        taker = app.new_backend()
        taker.open(f"{owner}+timeout")
        try:
            for delivery in taker.claim([job_id], new_token()):
                ending = _ending(app, delivery, reason, stacks)
                if ending is None:
                    return False
                request = new_token()
                push_followups(taker, [ending], request)
                taker.settle([ending], request)
                return True
        finally:
            taker.close()
    except NotSupported:
        pass
    return False


def _ending(app: App, delivery: Delivery, reason: str, stacks: str) -> Settlement | None:
    settings = app.config.topics.get(delivery.topic)
    try:
        message = decode(
            delivery.payload, signer=app.signer, topic=delivery.topic, default_job=settings.default_job if settings else None
        )
    except JobsError:
        return None
    job = app.registry.get(message.job or "")
    if job is None:
        return None
    run = Run(delivery, message, job, policy_of(app, job, delivery.topic), [], {})
    run.error = JobTimeout(reason)
    run.error.__cause__ = JobInterrupted(stacks)
    return settlement(run)
