"""The common part of all envelopes of one job function: computed once, not for every enqueue."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct

from .config import Config, Topic
from .errors import JobDefinitionError
from .job import JobFunction
from .message import VERSION, Message
from .options import DEFAULT_TOPIC, NO_OVERRIDES, JobOptions, Unique, stores_result


class Stamp(Struct, frozen=True):
    """The options of a job function, or of one returned by `using`, resolved under one configuration."""

    config: Config
    envelope: Message  # without id, arguments and time
    id: str | None  # chosen beforehand
    unique: Unique | None
    stores_result: bool
    on_commit: bool | None  # the value given to `using`, else to `@job`


def stamp_of(job: JobFunction[Any, Any, Any], config: Config) -> Stamp:
    """Resolve the options of a job function; raise JobDefinitionError for one that no worker could find."""
    if job.name.startswith("__main__."):
        raise JobDefinitionError(
            f"{job.name} is defined in the program that was started, which a worker imports under another name: "
            "move it to a module of its own, or give it a name, @job(name=...)"
        )
    overrides = job.overrides
    options = job.options if overrides is NO_OVERRIDES else overrides.over(job.options)
    topic = DEFAULT_TOPIC if options.topic is UNSET else options.topic
    envelope = Message(v=VERSION, job=job.name, topic=topic, **_fields(options, overrides, config.topic(topic)))
    unique = None if options.unique is UNSET else options.unique
    return Stamp(
        config=config,
        envelope=envelope,
        id=None if overrides.id is UNSET else overrides.id,
        unique=unique,
        stores_result=stores_result(job.options, topic, config) if envelope.store_result is None else envelope.store_result,
        on_commit=None if options.on_commit is UNSET else options.on_commit,
    )


def _fields(options: JobOptions, overrides: JobOptions, settings: Topic) -> dict[str, Any]:
    """Return the envelope's fields besides name and arguments.

    The fields that a worker resolves by itself are written only if `using` sets them.
    """
    fields: dict[str, Any] = {}
    for name in ("retries", "timeout", "store_result"):
        if getattr(overrides, name) is not UNSET:
            fields[name] = getattr(overrides, name)
    for name in ("delay", "key", "headers"):
        if getattr(options, name) is not UNSET:
            fields[name] = getattr(options, name)
    for name, field in (("priority", "priority"), ("expires", "expires_in")):
        value = getattr(options, name)
        if value is UNSET:
            value = getattr(settings, name)
        if value is not UNSET and value is not None:
            fields[field] = value if name == "priority" else float(value)
    return fields
