"""The outcome of a run: done, retried later, dead or cancelled. No other module decides it."""

from __future__ import annotations

import random
import time

from .. import boundary
from ..backends.base import Delivery, Outcome, Settlement
from ..conversion import json_encoder, may_hide_non_finite, non_finite
from ..errors import Discard, JobCancelled, JobTimeout, Retry, Snooze
from ..units import seconds
from . import failure
from .run import Run

CANCELLED_TTL = 86400.0


def settlement(run: Run) -> Settlement:
    """Return the settlement of a finished run. There is one for every error and every value."""
    delivery, error = run.delivery, run.error
    if error is None:
        if not run.store_result and run.followups is None:
            return Settlement(delivery.id, delivery.token, Outcome.DONE)
        return _done(run)
    kind = type(error)  # isinstance would run code of the error itself
    if issubclass(kind, JobCancelled):
        return Settlement(delivery.id, delivery.token, Outcome.CANCELLED, result_ttl=CANCELLED_TTL)
    after: float | None = None
    if issubclass(kind, (Snooze, Retry)):
        try:
            after = _delay(error)
        except ValueError as wrong:
            error = run.error = wrong
        if after is not None and issubclass(kind, Snooze):
            return Settlement(delivery.id, delivery.token, Outcome.DEFER, after=after)
    attempt = delivery.attempt + 1
    run.failure = failure.of(error)
    if run.unfit:
        return unrun(delivery, Outcome.DEAD, "bad arguments", run.failure.text)
    told = failure.history(run.failure, at=broker_time(run), attempt=attempt)
    if issubclass(kind, Discard):
        reason = f"discarded: {boundary.text_of(_given(error, 'reason'), 500)}"
        return Settlement(delivery.id, delivery.token, Outcome.DEAD, reason=reason, error=told)
    if attempt > run.retries:
        reason = "timeout" if issubclass(kind, JobTimeout) else "failed"
        return Settlement(delivery.id, delivery.token, Outcome.DEAD, reason=reason, error=told)
    if after is None:
        after = random.uniform(0, run.policy.backoff.ceiling(attempt))
    return Settlement(delivery.id, delivery.token, Outcome.RETRY, after=after, error=told)


def unrun(delivery: Delivery, outcome: Outcome, reason: str, text: str) -> Settlement:
    """Return the settlement of a job that cannot be run; it does not count as an attempt."""
    error = failure.document(
        at=delivery.broker_now, attempt=delivery.attempt, type=reason, message=boundary.storable(text), traceback=""
    )
    return Settlement(delivery.id, delivery.token, outcome, counts=False, reason=reason, error=error)


def _done(run: Run) -> Settlement:
    delivery = run.delivery
    return Settlement(
        delivery.id,
        delivery.token,
        Outcome.DONE,
        result=_encode_result(run.value, run.policy.max_result) if run.store_result else None,
        result_ttl=run.policy.result_ttl,
        followups=tuple(run.followups or ()),
    )


def _encode_result(value: object, limit: int) -> bytes:
    """Encode the result for storage. The job has succeeded: its result must not fail it."""
    try:
        encoded = json_encoder.encode({"value": value})
        if len(encoded) > limit:
            return _unstorable(f"it is {len(encoded):,} bytes long, max_result is {limit:,}")
        if may_hide_non_finite(encoded) and non_finite(value):
            return _unstorable("it contains NaN or infinity, which JSON cannot represent")
        return encoded
    except BaseException as error:
        simple = issubclass(type(error), (TypeError, ValueError))
        return _unstorable(boundary.text_of(error) if simple else boundary.told(error))


def _unstorable(reason: str) -> bytes:
    return json_encoder.encode({"unstorable": reason})


def _delay(error: BaseException) -> float | None:
    """Return the delay in seconds of a Snooze or Retry, or None if there is none; raise ValueError for an invalid duration."""
    try:
        value = _given(error, "delay")
        return None if value is None and issubclass(type(error), Retry) else float(seconds(value))
    except BaseException as wrong:
        name = boundary.name_of(type(error)).rpartition(".")[2]
        raise ValueError(f"raise {name}(...): delay: {boundary.text_of(wrong)}") from error


def _given(error: BaseException, name: str) -> object:
    """Return an attribute that a job gave to an exception, None if reading it raises."""
    try:
        return getattr(error, name, None)
    except BaseException:
        return None


def broker_time(run: Run) -> float:
    """Estimate the current time by the broker's clock: its time at the reservation, plus the time that has passed here."""
    return run.delivery.broker_now + (time.monotonic() - run.started if run.started else 0.0)
