"""The options of a job, and how they resolve: `using` over `@job` over `[topics.x]` over the default."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType

from .config import Config
from .errors import JobDefinitionError
from .message import UniqueKey
from .units import DurationLike, seconds

DEFAULT_TOPIC = "default"
DEFAULT_RETRIES = 3
Acks: TypeAlias = Literal["late", "early"]


class Backoff(Struct, frozen=True):
    """How long retries wait: a random time up to `first`, doubling with every attempt, up to `longest` seconds.

    "Full jitter" of Brooker, Exponential Backoff And Jitter (AWS Architecture Blog, 2015).
    """

    first: float = 2.0
    longest: float = 3600.0

    def ceiling(self, attempt: int) -> float:
        """The longest wait after the attempt of this number, counted from 1."""
        return min(self.longest, self.first * 2.0 ** min(attempt - 1, 64))


class Unique(Struct, frozen=True):
    """At most one such job: while it is queued, until it is done, or for a time.

    `key` is a text, which may name arguments (`"invoice-{number}"`), or a function of the arguments; without
    one, all arguments count. On a conflict the enqueue drops the new job and returns the old one's handle,
    replaces the old one if it has not started, or raises DuplicateJob.
    """

    key: str | Callable[..., str] | None = None
    scope: Literal["queued", "done"] | DurationLike = "done"
    conflict: Literal["drop", "replace", "raise"] = "drop"


class JobOptions(Struct, frozen=True, kw_only=True):
    """What `@job` and `using` take. UNSET: not said here."""

    topic: str | UnsetType = UNSET
    retries: int | UnsetType = UNSET
    timeout: float | UnsetType | None = UNSET
    backoff: Backoff | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    delay: float | UnsetType | None = UNSET
    expires: float | UnsetType | None = UNSET
    unique: Unique | UnsetType | None = UNSET
    acks: Acks | UnsetType = UNSET
    store_result: bool | UnsetType = UNSET
    key: str | UnsetType | None = UNSET
    headers: dict[str, Any] | UnsetType = UNSET
    id: str | UnsetType = UNSET
    on_commit: bool | UnsetType = UNSET

    def over(self, other: JobOptions) -> JobOptions:
        """These options, with what they do not say taken from `other`."""
        mine = {name: getattr(self, name) for name in self.__struct_fields__ if getattr(self, name) is not UNSET}
        return msgspec.structs.replace(other, **mine)


class Policy(Struct, frozen=True):
    """How a worker treats the runs of one job in one topic; the envelope may override the first three."""

    retries: int
    timeout: float | None
    store_result: bool
    backoff: Backoff
    acks: Acks
    result_ttl: float


def parse(where: str, given: dict[str, Any]) -> JobOptions:
    """Checked options from what a developer wrote; raises JobDefinitionError that names the option."""
    values: dict[str, Any] = {}
    for name, value in given.items():
        if value is UNSET:
            continue
        try:
            values[name] = _PARSERS.get(name, _as_is)(value)
        except (ValueError, TypeError) as error:
            raise JobDefinitionError(f"{where}: {name}: {error}") from None
    return JobOptions(**values)


def _as_is(value: Any) -> Any:
    return value


def _duration_or_none(value: Any) -> float | None:
    return None if value is None else float(seconds(value))


def _backoff(value: Any) -> Backoff:
    return value if isinstance(value, Backoff) else Backoff(first=float(seconds(value)))


def _unique(value: Any) -> Unique | None:
    if value is None or value is False:
        return None
    if value is True:
        return Unique()
    if isinstance(value, str):
        return Unique(key=value)
    if not isinstance(value, Unique):
        raise ValueError(f"expected True, a key or Unique(...), got {type(value).__name__}")
    if value.scope not in ("queued", "done"):
        seconds(value.scope)
    if value.conflict not in ("drop", "replace", "raise"):
        raise ValueError(f'conflict: expected "drop", "replace" or "raise", got {value.conflict!r}')
    return value


def _in(low: int, high: int | None) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
            expected = f"from {low} to {high}" if high is not None else f"of {low} or more"
            raise ValueError(f"expected a whole number {expected}, got {value!r}")
        return value

    return check


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected a text, got {value!r}")
    return value


def _topic(value: Any) -> str:
    from .topics import topic_error

    reason = topic_error(_text(value))
    if reason:
        raise ValueError(reason)
    return str(value)


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected True or False, got {value!r}")
    return value


def _acks(value: Any) -> Acks:
    if value not in ("late", "early"):
        raise ValueError(f'expected "late" or "early", got {value!r}')
    return value  # type: ignore[no-any-return]  # narrowed above, in a way mypy does not follow


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "topic": _topic,
    "retries": _in(0, None),
    "timeout": _duration_or_none,
    "backoff": _backoff,
    "priority": _in(0, 9),
    "delay": _duration_or_none,
    "expires": _duration_or_none,
    "unique": _unique,
    "acks": _acks,
    "id": _text,
    "on_commit": _bool,
}


def unique_key(unique: Unique, job: str, args: Any, kwargs: Any, named: Callable[[], dict[str, Any]]) -> UniqueKey:
    """The key of one call, as its envelope carries it."""
    if callable(unique.key):
        text = unique.key(*args, **kwargs)
    elif unique.key is not None:
        text = unique.key.format(**named()) if "{" in unique.key else unique.key
    else:
        canonical = msgspec.json.encode(named(), order="sorted", enc_hook=str)
        text = hashlib.sha256(canonical).hexdigest()[:32]
    key = f"{job}:{text}"
    scope = unique.scope
    if scope == "queued":
        return UniqueKey(key, "queued", unique.conflict)
    if scope == "done":
        return UniqueKey(key, "done", unique.conflict)
    return UniqueKey(key, float(seconds(scope)), unique.conflict)


def policy(options: JobOptions, topic: str, config: Config) -> Policy:
    """What holds for the runs of a job with these `@job` options in this topic."""
    settings = config.topic(topic)

    def first(*values: Any) -> Any:
        return next((value for value in values if value is not UNSET and value is not None), None)

    backoff = first(options.backoff, Backoff(first=settings.backoff) if settings.backoff is not None else None, Backoff())
    retries = first(options.retries, settings.retries, DEFAULT_RETRIES)
    timeout = settings.timeout if options.timeout is UNSET else options.timeout
    return Policy(
        retries=retries,
        timeout=timeout or None,
        store_result=bool(first(options.store_result, settings.store_result, False)),
        backoff=backoff,
        acks=first(options.acks, settings.acks, "late"),
        result_ttl=float(settings.result_ttl),
    )


def stores_result(options: JobOptions, topic: str, config: Config) -> bool:
    """That alone, of what `policy` says: asked for every enqueue."""
    if options.store_result is not UNSET and options.store_result is not None:
        return bool(options.store_result)
    return bool(config.topic(topic).store_result)


NO_OVERRIDES = JobOptions()
"""What a job function has that nobody called `using` on; compared by identity on the way of every enqueue."""
