"""The outcome of a run: done, retried later, deferred, dead or cancelled.

It is decided only here, and only once. The executor decides it at the end of the run, while the run still counts as
running; the courier decides it for a run that ends without its executor. All other code reads `Run.settlement`.
"""

from __future__ import annotations

import logging
import random
import time
from typing import NamedTuple

import msgspec

from .. import boundary
from ..backends.base import CANCELLED_TTL, Delivery, Outcome, Settlement
from ..backends.letters import fingerprint
from ..conversion import json_encoder, may_hide_non_finite, non_finite
from ..errors import Discard, JobCancelled, JobInterrupted, JobSignal, JobSuspended, JobTimeout, MessageError, Retry, Snooze
from ..options import limit_error
from ..retry_rules import Backoff
from ..units import seconds, shown
from . import failure
from .progress import cursor_to_store
from .run import Run


def decide(run: Run) -> Settlement:
    """Decide the outcome of a run that has ended, once: a run may end just when the courier stops waiting for it."""
    if run.settlement is None:
        run.settlement = settlement(run)
    return run.settlement


def settlement(run: Run) -> Settlement:
    """Return the settlement of a run that has ended, from its error or value. Every error and every value leads to one."""
    delivery, on_end = run.delivery, run.policy.on_end
    if run.progress is not None and run.error is None:
        run.error = run.progress.suspended  # a job that swallows it has more steps to do all the same
    if run.error is None:
        if not run.store_result and run.followups is None and on_end is None:
            return Settlement(delivery.id, delivery.token, Outcome.DONE)
        ending = _done(run)
    else:
        ending = _failed(run, run.error)
    return ending if on_end is None else on_end.of_run(run, ending)


def _failed(run: Run, raised: BaseException) -> Settlement:
    delivery = run.delivery
    outcome, after, error, reason, backoff, close = _judge(run, _cause(run, raised))
    run.error = error
    if outcome is Outcome.CANCELLED:
        entered = bool(run.started) and not run.unfit
        return Settlement(delivery.id, delivery.token, outcome, result_ttl=CANCELLED_TTL, ran=entered)
    cursor = cursor_to_store(run)
    if outcome in (Outcome.DEFER, Outcome.RELEASE):
        closed = _closures(run, close, after or 0.0) if close else ()
        return Settlement(delivery.id, delivery.token, outcome, after=after or 0.0, cursor=cursor, close_limits=closed)
    run.failure = failure.of(error)
    if run.unfit:
        return unrun(delivery, outcome, _unfit(error), run.failure.text)
    told = failure.history(run.failure, at=broker_time(run), attempt=run.attempt)
    if outcome is Outcome.DEAD and not close:
        reason = reason or _reason(error)
        return _buried(Settlement(delivery.id, delivery.token, outcome, reason=reason, error=told, cursor=cursor))
    if after is None:
        after = random.uniform(0, (backoff or run.policy.backoff).ceiling(run.attempt))
    closed = _closures(run, close, after)
    if outcome is Outcome.DEAD:  # the last attempt closes its limits too: the other jobs are to wait
        return _buried(
            Settlement(
                delivery.id,
                delivery.token,
                outcome,
                reason=reason or _reason(error),
                error=told,
                cursor=cursor,
                close_limits=closed,
            )
        )
    return Settlement(delivery.id, delivery.token, outcome, after=after, error=told, cursor=cursor, close_limits=closed)


def is_final(run: Run, error: BaseException) -> bool:
    """Return whether a run would be its job's last if `error` ended it now."""
    return _judge(run, _cause(run, error)).outcome in (Outcome.DEAD, Outcome.CANCELLED)


class _Verdict(NamedTuple):
    outcome: Outcome
    after: float | None  # the delay that the job chose
    error: BaseException  # for the job's history
    reason: str = ""  # of a dead letter, if a retry rule decided
    backoff: Backoff | None = None  # of the retry rule
    close: tuple[str, ...] = ()  # limits that the job closes


def _judge(run: Run, error: BaseException) -> _Verdict:
    """Return the outcome of a run that `error` ended; a job that was acknowledged before it ran cannot run again."""
    verdict = _verdict(run, error)
    if run.policy.acks == "early" and verdict.outcome in (Outcome.RETRY, Outcome.DEFER):
        reason = "" if verdict.outcome is Outcome.RETRY else 'not run again: acks="early"'
        return _Verdict(Outcome.DEAD, None, verdict.error, reason)
    return verdict


def _verdict(run: Run, error: BaseException) -> _Verdict:
    kind = type(error)  # isinstance would run code of the error itself
    if issubclass(kind, JobCancelled):
        return _Verdict(Outcome.CANCELLED, None, error)
    if issubclass(kind, JobSuspended) and run.progress is not None:
        return _Verdict(Outcome.RELEASE, None, error)
    after: float | None = None
    close: tuple[str, ...] = ()
    if issubclass(kind, (Snooze, Retry)):
        try:
            after = _delay(error)
            close = _closed(error)
        except ValueError as wrong:
            error, after = wrong, None
        if after is not None and issubclass(kind, Snooze):
            return _Verdict(Outcome.DEFER, after, error, close=close)
    if run.unfit or issubclass(kind, Discard):
        return _Verdict(Outcome.DEAD, None, error)
    retries, backoff, rules = run.retries, None, run.policy.rules
    if rules is not None and not issubclass(kind, JobSignal):
        rule = rules.verdict(kind)
        if isinstance(rule, str):
            return _Verdict(Outcome.DEAD, None, error, boundary.storable(rule, 500))
        if rule.retries is not None and run.message.retries is None:
            retries = rule.retries
        backoff = rule.backoff
    if run.attempt > retries:
        return _Verdict(Outcome.DEAD, after if close else None, error, backoff=backoff, close=close)
    return _Verdict(Outcome.RETRY, after, error, backoff=backoff, close=close)


def _cause(run: Run, error: BaseException) -> BaseException:
    """Return the interruption of an interrupted run instead of the error with which it ended.

    That error may be the cancellation of its task, an error into which a library or Python itself turned the
    interruption (in a callback from C, during the creation of a class), or a failure of the job's clean-up. A job that
    wants another outcome raises Retry, Snooze or Discard.
    """
    interrupted = run.interrupted
    if interrupted is None or run.unfit or issubclass(type(error), (JobInterrupted, JobSignal)):
        return error
    from asyncio import CancelledError  # late import: plain jobs do not need asyncio

    if not issubclass(type(error), CancelledError):
        interrupted.__cause__ = error
    return interrupted


def _unfit(error: BaseException) -> str:
    """Return why a run never began: its arguments could not be read, or did not fit."""
    return "bad payload" if issubclass(type(error), MessageError) else "bad arguments"


def _reason(error: BaseException) -> str:
    """Return the reason of a dead letter."""
    kind = type(error)
    if issubclass(kind, Discard):
        return f"discarded: {boundary.text_of(_given(error, 'reason'), 500)}"
    return "timeout" if issubclass(kind, JobTimeout) else "failed"


def unrun(delivery: Delivery, outcome: Outcome, reason: str, text: str) -> Settlement:
    """Return the settlement of a job that cannot be run; it does not count as an attempt."""
    error = failure.document(
        at=delivery.broker_now, attempt=delivery.previous_attempts, type=reason, message=boundary.storable(text), traceback=""
    )
    return _buried(Settlement(delivery.id, delivery.token, outcome, counts=False, reason=reason, error=error, ran=False))


def _buried(settlement: Settlement) -> Settlement:
    """Return the settlement of a job that dies, with what went wrong."""
    return msgspec.structs.replace(settlement, fingerprint=fingerprint(settlement.reason, settlement.error))


def _done(run: Run) -> Settlement:
    delivery = run.delivery
    return Settlement(
        delivery.id,
        delivery.token,
        Outcome.DONE,
        result=_stored_result(run) if run.store_result else None,
        result_ttl=run.policy.result_ttl,
        followups=run.due_followups() if run.followups else (),
    )


def _stored_result(run: Run) -> bytes:
    encoded, pack = encode_result(run.value, run.policy.max_result), run.policy.pack_result
    stored = encoded if pack is None else pack(run.delivery.id, encoded)
    if run.delivery.flow and run.policy.sign_result is not None:  # it may become an argument of another member
        return run.policy.sign_result(run.delivery.flow, run.delivery.id, stored)
    return stored


def encode_result(value: object, limit: int) -> bytes:
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


def _closed(error: BaseException) -> tuple[str, ...]:
    """Return the limits that a Retry or Snooze closes; raise ValueError for anything that names no limit."""
    value = _given(error, "close")
    raised = f"raise {boundary.name_of(type(error)).rpartition('.')[2]}(...)"
    given = (value,) if isinstance(value, str) else value or ()
    if not isinstance(given, (tuple, list, set, frozenset)):
        raise ValueError(f"{raised}: close: expected the name of a limit, or several, got {shown(given)}")
    for limit in given:
        reason = limit_error(limit) if isinstance(limit, str) else f"expected the name of a limit, got {shown(limit)}"
        if reason:
            raise ValueError(f"{raised}: close: {reason}") from error
    return tuple(str.__str__(limit) for limit in given)


def _closures(run: Run, close: tuple[str, ...], after: float) -> tuple[tuple[str, float], ...]:
    """Return the limits that a run closes, and for how long; warn of those that the job does not have itself.

    They are closed all the same: other jobs may have them. The name of a template or a typo would hold nothing back.
    """
    own = run.delivery.limits
    if foreign := [limit for limit in close if limit not in own]:
        line = "job %s of %s closes %s for jobs that have this limit; the job itself has %s%s"
        hint = '; braces are not replaced here: close=f"…"' if any("{" in limit for limit in foreign) else ""
        has = ", ".join(own) or "no limits"
        boundary.log(failure.logger, logging.WARNING, line, run.id, run.message.job, ", ".join(foreign), has, hint)
    return tuple((limit, after) for limit in close)


def _given(error: BaseException, name: str) -> object:
    """Return an attribute that a job gave to an exception, None if reading it raises."""
    try:
        return getattr(error, name, None)
    except BaseException:
        return None


def broker_time(run: Run) -> float:
    """Estimate the current time by the broker's clock: its time at the reservation, plus the time that has passed here."""
    return run.delivery.broker_now + (time.monotonic() - run.started if run.started else 0.0)
