"""What follows from how a run ended: done, again later, dead, cancelled. The only place that decides it."""

from __future__ import annotations

import random
import time
from typing import Any

from ..backends.base import Outcome, Settlement
from ..conversion import json_encoder, may_hide_non_finite, non_finite
from ..errors import Discard, JobCancelled, JobTimeout, Retry, Snooze
from ..units import seconds
from . import failure
from .run import Run

CANCELLED_TTL = 86400.0


def settlement(run: Run) -> Settlement:
    """The settlement of a finished run."""
    delivery, error = run.delivery, run.error
    if error is None:
        if not run.store_result and run.followups is None:
            return Settlement(delivery.id, delivery.token, Outcome.DONE)
        return _done(run)
    if isinstance(error, Snooze):
        return Settlement(delivery.id, delivery.token, Outcome.DEFER, after=_delay(error.delay) or 0.0)
    if isinstance(error, JobCancelled):
        return Settlement(delivery.id, delivery.token, Outcome.CANCELLED, result_ttl=CANCELLED_TTL)
    attempt = delivery.attempt + 1
    described = failure.describe(error, at=broker_time(run), attempt=attempt)
    if isinstance(error, Discard):
        reason = f"discarded: {failure.clip(error.reason, 500)}"
        return Settlement(delivery.id, delivery.token, Outcome.DEAD, reason=reason, error=described)
    if attempt > run.retries:
        reason = "timeout" if isinstance(error, JobTimeout) else "failed"
        return Settlement(delivery.id, delivery.token, Outcome.DEAD, reason=reason, error=described)
    after = _delay(error.delay) if isinstance(error, Retry) else None
    if after is None:
        after = random.uniform(0, run.policy.backoff.ceiling(attempt))
    return Settlement(delivery.id, delivery.token, Outcome.RETRY, after=after, error=described)


def _done(run: Run) -> Settlement:
    delivery = run.delivery
    return Settlement(
        delivery.id,
        delivery.token,
        Outcome.DONE,
        result=_encode_result(run.value) if run.store_result else None,
        result_ttl=run.policy.result_ttl,
        followups=tuple(run.followups or ()),
    )


def _encode_result(value: Any) -> bytes:
    """The result as stored. The job has succeeded: what it returned must not fail it."""
    try:
        encoded = json_encoder.encode({"value": value})
        if may_hide_non_finite(encoded) and non_finite(value):
            raise ValueError("it holds NaN or infinity")
        return encoded
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return json_encoder.encode({"unstorable": str(error)})


def _delay(value: object) -> float | None:
    """Seconds from what a job raised; what makes no sense counts as not given, the job's error is shown as it is."""
    try:
        return None if value is None else float(seconds(value))
    except ValueError:
        return None


def broker_time(run: Run) -> float:
    """About the time by the broker's clock: its time at the reservation, plus what has passed here."""
    return run.delivery.broker_now + (time.monotonic() - run.started if run.started else 0.0)
