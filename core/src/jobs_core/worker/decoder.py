"""Turn a delivery into a run, or into the settlement of a job that cannot run: decode, verify, look up, convert."""

from __future__ import annotations

import logging

from .. import boundary
from ..app import App
from ..backends.base import SIGNATURE_LINE, Delivery, Outcome, Settlement
from ..config import Config
from ..errors import ArgumentError, MessageError, PayloadError, UnknownJob, UnknownVersion
from ..message import VERSION, Message, decode
from ..options import Policy
from ..pauses import doubled
from ..payloads import blob_of
from ..registry import AnyJob
from ..runs.failure import log_unrun
from ..runs.outcome import unrun
from ..runs.progress import Progress, place_of
from ..runs.run import Run
from ..units import count
from .on_end import policy_of, with_on_dead

logger = logging.getLogger("jobs.worker")

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

    def accept(self, delivery: Delivery) -> Run | Settlement:
        """Return a run that is ready to start, or the settlement of a delivery that cannot run."""
        message: Message | None = None
        try:
            if delivery.crashes >= self._config.max_redeliveries:
                return self._crashed(delivery)
            message = self._decode(delivery)
            if message.expires_in is not None and self._expired(delivery, message, message.expires_in):
                reason = f"not started within {message.expires_in:g} s"
                return self._dead(delivery, Outcome.EXPIRED, "expired", reason, message)
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

    def _run(self, delivery: Delivery, message: Message, job: AnyJob) -> Run:
        """Return a run of a message; raise ArgumentError if its arguments do not fit."""
        args, kwargs = message.args, message.kwargs
        runs_code = job.arguments.run_code
        if runs_code:
            job.arguments.bind(args, kwargs)
        else:
            job.arguments.convert(args, kwargs)
        run = Run(delivery, message, job, self._policy(job, delivery.topic), args, kwargs)
        run.convert = runs_code
        if run.policy.resumable:
            run.progress = self._progress(delivery)
        return run

    def _packed(self, delivery: Delivery, message: Message, job: AnyJob) -> Run:
        """Return a run of a packed message. The executor fetches arguments from the payload store, which may be slow."""
        blob = blob_of(message)
        if blob is None:
            return self._run(delivery, self._payloads.unpacked(message), job)
        run = Run(delivery, message, job, self._policy(job, delivery.topic), [], {})
        run.blob, run.load, run.convert = blob, self._payloads.unpacked, True
        if run.policy.resumable:
            run.progress = self._progress(delivery)
        return run

    def _progress(self, delivery: Delivery) -> Progress:
        """Return the progress of earlier runs; raise _BadCursor if it cannot be read: beginning anew would repeat steps."""
        try:
            return Progress(place_of(self._payloads.unpack_cursor(delivery.id, delivery.cursor)))
        except (PayloadError, ValueError) as error:
            raise _BadCursor(f"the stored cursor of this job cannot be read: {error}") from None

    def _policy(self, job: AnyJob, topic: str) -> Policy:
        rules = self._policies.get((job, topic))
        if rules is None:
            rules = self._policies[(job, topic)] = policy_of(self._app, job, topic)
        return rules

    def _unreadable(self, delivery: Delivery, error: MessageError, message: Message | None) -> Settlement:
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

    def _unknown(self, delivery: Delivery, error: Exception, message: Message | None) -> Settlement:
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
        return Settlement(delivery.id, delivery.token, Outcome.DEFER, after=after)

    def _crashed(self, delivery: Delivery) -> Settlement:
        died = count(delivery.crashes, "worker")
        text = f"{died} died while running this job and no other: it is not run again"
        try:
            message = self._decode(delivery)
        except Exception:  # other workers could read it: they are newer, or have other keys
            message = None
        return self._dead(delivery, Outcome.DEAD, "crashed", text, message)

    def _dead(self, delivery: Delivery, outcome: Outcome, reason: str, text: str, message: Message | None = None) -> Settlement:
        log_unrun(delivery, reason, text)
        return with_on_dead(self._app, delivery, message, unrun(delivery, outcome, reason, text))
