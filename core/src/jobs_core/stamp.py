"""The common part of all envelopes of one job function: computed once, not for every enqueue."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from msgspec import UNSET, Struct
from msgspec.structs import replace

from .config import Config, Topic
from .errors import JobDefinitionError
from .job import JobFunction
from .message import VERSION, Message
from .options import (
    DEFAULT_TOPIC,
    NO_OVERRIDES,
    JobOptions,
    Unique,
    checked_limits,
    encrypts,
    key_of,
    key_varies,
    limit_varies,
    limits_of,
    refuse_early,
    refuse_never,
    stores_result,
)
from .units import MAX_SECONDS, seconds, shown_time


class Moments(Struct, frozen=True):
    """Points in time by this machine's clock; an envelope holds them as seconds from the enqueue."""

    job: str
    at: float | None
    expires_at: float | None

    def fill(self, envelope: Message, now: float) -> Message:
        """Return an envelope with the times as seconds from now; raise JobDefinitionError if the job could never run.

        A job whose `at` has passed is due at once. The broker's clock measures these seconds, so a difference between the
        producer's and the broker's clock does not matter, but an error of the producer's clock does.
        """
        delay = envelope.delay if self.at is None else self._left("at", self.at, now)
        expires_in = envelope.expires_in if self.expires_at is None else self._left("expires_at", self.expires_at, now)
        if delay and expires_in is not None and delay >= expires_in:
            raise JobDefinitionError(
                f"{self.job}: it would expire {expires_in:g} s from now, before it is due in {delay:g} s, and never run: "
                "choose a later expires_at"
            )
        return replace(envelope, delay=delay, expires_in=expires_in)

    def _left(self, name: str, moment: float, now: float) -> float:
        left = max(0.0, round(moment - now, 6))
        if left > MAX_SECONDS:
            raise JobDefinitionError(
                f"{self.job}: {name}: {shown_time(moment)} is more than {MAX_SECONDS:g} s (31 years) away, which is the limit"
            )
        return left


class Varying(Struct, frozen=True):
    """The key and the limits of a job function, of which at least one depends on the arguments of a call."""

    key: str | Callable[..., str | None] | None
    limits: tuple[str | Callable[..., Any], ...] | None

    def fill(self, envelope: Message, job: JobFunction[Any, Any, Any], args: Any, kwargs: Any) -> Message:
        """Return an envelope with the key and the limits of a call; raise MessageError for values that cannot be stored."""
        named = functools.partial(job.arguments.named, args, kwargs)
        return replace(
            envelope,
            key=None if self.key is None else key_of(self.key, job.name, args, kwargs, named),
            limits=None if self.limits is None else limits_of(self.limits, job.name, args, kwargs, named),
        )


class Stamp(Struct, frozen=True):
    """The options of a job function, or of one returned by `using`, resolved under one configuration."""

    config: Config
    envelope: Message  # without id, arguments and time
    id: str | None  # the id given to `using`
    unique: Unique | None
    stores_result: bool
    encrypts: bool
    on_commit: bool | None  # the value given to `using`, else to `@job`
    moments: Moments | None  # None: every time in the envelope is relative
    varies: Varying | None = None  # None: neither key nor limits depend on the arguments
    transaction: Any = None  # the transaction of the application to which the job belongs
    bare: bool = True  # neither `on_commit` nor `transaction` is given


def stamp_of(job: JobFunction[Any, Any, Any], config: Config) -> Stamp:
    """Resolve the options of a job function; raise JobDefinitionError for one of `__main__`, which no worker could find."""
    if job.name.startswith("__main__."):
        raise JobDefinitionError(
            f"{job.name} is defined in the program that was started, which a worker imports under another name: "
            "move it to a module of its own, or give it a name, @job(name=...)"
        )
    if job.options.encrypt is True and not config.encryption_keys:
        raise JobDefinitionError(f"{job.name}: encrypt=True, but there are no encryption_keys: set them, or leave it out")
    overrides = job.overrides
    options = job.options if overrides is NO_OVERRIDES else overrides.over(job.options)
    topic = DEFAULT_TOPIC if options.topic is UNSET else options.topic
    settings = config.topic(topic)
    refuse_early(job.name, options, settings.acks)
    refuse_never(job.name, options, settings)
    key = None if options.key is UNSET else options.key
    limits = None if options.limits is UNSET else options.limits
    varying = None
    if key_varies(key) or any(limit_varies(limit) for limit in limits or ()):
        varying, key, limits = Varying(key, limits), None, None
    envelope = Message(
        v=VERSION,
        job=job.name,
        topic=topic,
        key=key if isinstance(key, str) else None,
        limits=None if limits is None else checked_limits(job.name, limits),
        **_fields(options, overrides, config.topic(topic)),
    )
    unique = None if options.unique is UNSET else options.unique
    if unique is not None and unique.wait is not None:
        if envelope.delay is not None or isinstance(options.at, float):
            raise JobDefinitionError(f"{job.name}: unique: Unique.debounce sets the delay of the job: leave out delay and at")
        envelope = replace(envelope, delay=float(seconds(unique.wait)))
    on_commit = None if options.on_commit is UNSET else options.on_commit
    transaction = None if options.transaction is UNSET else options.transaction
    if on_commit is not None and transaction is not None:
        raise JobDefinitionError(f"{job.name}: on_commit and transaction both say when the job is sent: leave out one of them")
    return Stamp(
        config=config,
        envelope=envelope,
        id=None if overrides.id is UNSET else overrides.id,
        unique=unique,
        stores_result=stores_result(job.options, topic, config) if envelope.store_result is None else envelope.store_result,
        encrypts=encrypts(options, topic, config),
        on_commit=on_commit,
        transaction=transaction,
        bare=on_commit is None and transaction is None,
        moments=_moments(job.name, overrides),
        varies=varying,
    )


def _moments(job: str, overrides: JobOptions) -> Moments | None:
    at, expires_at = (None if value is UNSET else value for value in (overrides.at, overrides.expires_at))
    return None if at is None and expires_at is None else Moments(job, at, expires_at)


def _fields(options: JobOptions, overrides: JobOptions, settings: Topic) -> dict[str, Any]:
    """Return the fields of the envelope that come from options.

    A field whose default the worker knows is written only if `using` sets it.
    """
    fields: dict[str, Any] = {}
    for name in ("retries", "timeout", "store_result"):
        if getattr(overrides, name) is not UNSET:
            fields[name] = getattr(overrides, name)
    for name in ("delay", "headers"):
        if getattr(options, name) is not UNSET:
            fields[name] = getattr(options, name)
    for name, field in (("priority", "priority"), ("expires", "expires_in")):
        value = getattr(options, name)
        if value is UNSET:
            value = getattr(settings, name)
        if value is not UNSET and value is not None:
            fields[field] = value if name == "priority" else float(value)
    return fields
