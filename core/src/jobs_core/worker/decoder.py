"""Turn a delivery into a run, or into the settlement of a job that cannot run: decode, verify, look up, convert."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection
from typing import Any

from msgspec.structs import replace

from .. import boundary
from ..app import App
from ..backends.base import SIGNATURE_LINE, Delivery, Outcome, Settlement
from ..config import Config
from ..errors import ArgumentError, MessageError, PayloadError, UnknownJob, UnknownVersion
from ..limiting import limits_keys
from ..message import VERSION, Message, decode
from ..options import Policy, checked_limits, limits_of
from ..pauses import doubled
from ..payloads import own_blob
from ..registry import AnyJob
from ..runs.failure import log_unrun
from ..runs.outcome import unrun
from ..runs.progress import Progress, place_of
from ..runs.run import Run
from ..units import count
from .kept_runs import KeptRuns
from .on_end import policy_of, with_on_dead
from .pending_ends import PendingEnd

logger = logging.getLogger("jobs.worker")

MOST_GIVEN_BACK = 10_000
"""Most jobs that are remembered as given back under their limits."""

_FIRST_DEFERRAL = 5.0
_LONGEST_DEFERRAL = 60.0


class _BadCursor(PayloadError):
    """Raised when the cursor of a resumable job cannot be read."""


class Decoder:
    """The decoder of deliveries into runs. Only the courier uses it; it never raises for a bad message."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._registry = app.registry
        self._signer = app.signer
        self._payloads = app.payloads
        self.discarder = app.payloads.discarder
        self._config: Config = app.config
        self._limit = app.config.max_message + SIGNATURE_LINE
        self._policies: dict[tuple[AnyJob, str], Policy] = {}
        self._late_policies: dict[tuple[AnyJob, str], Policy] = {}
        self.keeps_limits = False  # whether the backend does
        self.keeps_notes = self.keeps_history = False  # the same for notes and done jobs
        self._told_unkept = False
        self.met_limits = False  # whether a delivery had limits
        self._given_back: set[str] = set()  # ids of jobs that were given back under their limits, the latest of them

    def know(self, features: Collection[str]) -> None:
        """Note what the backend keeps, before the first delivery."""
        self.keeps_limits = "limits" in features
        self.keeps_notes, self.keeps_history = "notes" in features, "history" in features

    def accept(self, delivery: Delivery) -> Run | Settlement | PendingEnd:
        """Return a run that is ready to start, or the settlement of a delivery that cannot run."""
        message: Message | None = None
        try:
            if delivery.crashes >= self._config.max_redeliveries:
                return self._crashed(delivery)
            message = self._decode(delivery)
            if message.expires_in is not None and self._expired(delivery, message, message.expires_in):
                reason = f"not started within {message.expires_in:g} s"
                return self._dead(delivery, Outcome.EXPIRED, Outcome.EXPIRED.value, reason, message)
            job = self._registry.get(message.job or "")
            if job is None:
                return self._unknown(delivery, self._missing(message.job or ""), message)
            if message.v != VERSION:
                return self._packed(delivery, message, job)
            return self._run(delivery, message, job)
        except (UnknownVersion, UnknownJob) as error:
            return self._unknown(delivery, error, message)
        except ArgumentError as error:
            return self._dead(delivery, Outcome.DEAD, "bad arguments", str(error), message)
        except MessageError as error:
            return self._unreadable(delivery, error, message)
        except Exception as error:  # a bug of ours: it must not delay the next message
            return self._dead(delivery, Outcome.DEAD, "bad message", f"it cannot be read: {boundary.told(error)}", message)

    def _run(self, delivery: Delivery, message: Message, job: AnyJob) -> Run | Settlement:
        """Return a run of a message, or give it back under its limits; raise ArgumentError if its arguments do not fit."""
        args, kwargs = message.args, message.kwargs
        runs_code = job.arguments.run_code
        try:
            if runs_code:
                job.arguments.bind(args, kwargs)
            else:
                job.arguments.convert(args, kwargs)
        except ArgumentError as error:
            if not message.results:
                raise
            from ..flows.inputs import naming_members  # late: only members of flows need it

            raise naming_members(error, message, job.arguments) from None
        policy = self._policies.get((job, delivery.topic)) or self._policy(job, delivery.topic)
        if delivery.limits:
            self.met_limits = True
            policy = self._late(job, delivery.topic, policy)
        elif (policy.limits or message.limits) and (limits := self._lacking(delivery, policy, message, job, args, kwargs)):
            return _given_back(delivery, limits)
        if delivery.flow and policy.acks == "early":
            policy = self._late(job, delivery.topic, policy, "is a member of a flow")
        run = Run(delivery, message, job, policy, args, kwargs)
        if runs_code:
            run.convert = True
        if policy.resumable:
            run.progress = self._progress(delivery)
        return run

    def _packed(self, delivery: Delivery, message: Message, job: AnyJob) -> Run | Settlement:
        """Return a run of a packed message, or of one that takes results.

        The executor fetches arguments from the payload store, which may be slow.
        """
        blob = own_blob(message)
        policy = self._policies.get((job, delivery.topic)) or self._policy(job, delivery.topic)
        if blob is None or (self.keeps_limits and policy.limits and message.limits is None and not delivery.limits):
            return self._run(delivery, self._complete(delivery, message), job)
        if delivery.limits:
            self.met_limits = True
            policy = self._late(job, delivery.topic, policy)
        elif message.limits and (limits := self._lacking(delivery, policy, message, job, [], {})):
            return _given_back(delivery, limits)
        if delivery.flow and policy.acks == "early":
            policy = self._late(job, delivery.topic, policy, "is a member of a flow")
        run = Run(delivery, message, job, policy, [], {})
        run.blob, run.load, run.convert = blob, self._payloads.unpacked, True
        if message.results:
            run.load = functools.partial(self._complete, delivery)
        if policy.resumable:
            run.progress = self._progress(delivery)
        return run

    def _complete(self, delivery: Delivery, message: Message) -> Message:
        """Return a message with all its arguments; raise PayloadError if they cannot be read."""
        message = self._payloads.unpacked(message)
        if not message.results:
            return message
        from ..flows.inputs import fill  # late: only members of flows need it

        return fill(message, message.results, delivery, self._app.flow_result)

    def _progress(self, delivery: Delivery) -> Progress:
        """Return the progress of earlier runs; raise _BadCursor if it cannot be read: starting over would repeat steps."""
        try:
            return Progress(place_of(self._payloads.unpack_cursor(delivery.id, delivery.cursor)))
        except (PayloadError, ValueError) as error:
            raise _BadCursor(f"the stored cursor of this job cannot be read: {error}") from None

    def _policy(self, job: AnyJob, topic: str) -> Policy:
        rules = policy_of(self._app, job, topic)
        if limits_keys(self._config, topic):
            rules = self._late(job, topic, rules)
        if rules.keep_done:
            rules = self._kept(rules, topic)
        self._policies[(job, topic)] = rules
        return rules

    def _kept(self, rules: Policy, topic: str) -> Policy:
        """Return the policy of a job that is kept when it is done, if it can be."""
        if self.keeps_history and rules.acks == "late":
            return replace(rules, on_end=KeptRuns(rules.on_end, rules.keep_done))
        if not self._told_unkept:
            self._told_unkept = True
            reason = (
                'jobs with acks="early" have left the backend before they run' if self.keeps_history else "it has no history"
            )
            line = "topics.%s.keep_done: done jobs are not kept by this backend: %s"
            boundary.log(logger, logging.WARNING, line, topic, reason)
        return rules

    def _late(self, job: AnyJob, topic: str, policy: Policy, why: str = "has limits") -> Policy:
        """Return the policy for a job that counts in a limit, or for which others wait: its end is that of its run."""
        if policy.acks == "late":
            return policy
        late = self._late_policies.get((job, topic))
        if late is None:
            late = self._late_policies[(job, topic)] = replace(policy, acks="late")
            line = "job %s of topic %s %s, so it is acknowledged after it has run, in spite of acks=early"
            boundary.log(logger, logging.WARNING, line, job.name, topic, why)
        return late

    def _lacking(
        self, delivery: Delivery, policy: Policy, message: Message, job: AnyJob, args: Any, kwargs: Any
    ) -> tuple[str, ...]:
        """Return the limits of a job that was delivered without them, because its producer does not know them.

        Raises ArgumentError if its arguments give none.
        """
        if not self.keeps_limits or delivery.id in self._given_back:  # a backend that has lost them once would do so again
            return ()
        try:
            if message.limits is not None:
                limits = checked_limits(job.name, message.limits)
            else:
                limits = limits_of(policy.limits, job.name, args, kwargs, lambda: job.arguments.named(args, kwargs))
            if len(self._given_back) >= MOST_GIVEN_BACK:
                self._given_back.clear()
            if limits:
                self._given_back.add(delivery.id)
            return tuple(limits)
        except Exception as error:  # of a function or a model of the application
            raise ArgumentError(f"the limits of {job.name} cannot be computed: {boundary.told(error)}") from None

    def _unreadable(self, delivery: Delivery, error: MessageError, message: Message | None) -> Settlement | PendingEnd:
        if message is None or not isinstance(error, PayloadError):
            return self._dead(delivery, Outcome.DEAD, "bad message", str(error))
        if isinstance(error, _BadCursor):
            return self._dead(delivery, Outcome.DEAD, "bad payload", str(error), message)
        return self._dead(delivery, Outcome.DEAD, "bad payload", f"the arguments of {message.job}: {error}", message)

    def _decode(self, delivery: Delivery) -> Message:
        if len(delivery.payload) > self._limit:
            raise MessageError(f"the message is {len(delivery.payload):,} bytes, max_message is {self._config.max_message:,}")
        settings = self._config.topics.get(delivery.topic)
        default_job = settings.default_job if settings else None
        return decode(delivery.payload, signer=self._signer, topic=delivery.topic, default_job=default_job)

    def _expired(self, delivery: Delivery, message: Message, expires_in: float) -> bool:
        # With signatures, expiry counts from the signed time if that is earlier: a recorded message cannot be replayed later.
        start = min(delivery.pushed_at, message.enqueued_at) if self._signer else delivery.pushed_at
        return delivery.broker_now >= start + expires_in

    def _missing(self, name: str) -> UnknownJob:
        try:
            self._registry.find(name)
        except UnknownJob as error:
            return error
        return UnknownJob(f"no job named {name!r} is registered here")  # pragma: no cover - find has just not found it

    def _unknown(self, delivery: Delivery, error: Exception, message: Message | None) -> Settlement | PendingEnd:
        """Defer an unknown job, in case a newer worker knows it; after `unknown_grace` seconds make it a dead letter."""
        *waits, after = (doubled(_FIRST_DEFERRAL, n, _LONGEST_DEFERRAL) for n in range(delivery.deferrals + 1))
        waited = sum(waits)
        if waited >= self._config.unknown_grace:
            reason = "unknown job" if isinstance(error, UnknownJob) else "unknown version"
            return self._dead(delivery, Outcome.DEAD, reason, str(error), message)
        after = min(after, self._config.unknown_grace - waited)
        boundary.log(
            logger,
            logging.WARNING,
            "job %s is deferred for %.0f s, to wait for a newer worker: %s",
            delivery.id,
            after,
            error,
        )
        return Settlement(delivery.id, delivery.token, Outcome.DEFER, after=after, ran=False)

    def _crashed(self, delivery: Delivery) -> Settlement | PendingEnd:
        died = count(delivery.crashes, "worker")
        text = f"{died} died while running this job and no other: it is not run again"
        try:
            message = self._decode(delivery)
        except Exception:  # other workers could read it: they are newer, or have other keys
            message = None
        return self._dead(delivery, Outcome.DEAD, "crashed", text, message)

    def _dead(
        self, delivery: Delivery, outcome: Outcome, reason: str, text: str, message: Message | None = None
    ) -> Settlement | PendingEnd:
        log_unrun(delivery, reason, text)
        return with_on_dead(self._app, delivery, message, unrun(delivery, outcome, reason, text))


def _given_back(delivery: Delivery, limits: tuple[str, ...]) -> Settlement:
    return Settlement(delivery.id, delivery.token, Outcome.RELEASE, ran=False, limits=limits)
