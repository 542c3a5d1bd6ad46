"""The options of a job. `using` takes precedence over `@job`, then `[topics.x]`, `[defaults]` and the built-in default."""

from __future__ import annotations

import contextlib
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType

from . import foreign
from .backends.limits import LIMIT, MOST_LIMITS
from .config import Config, Topic
from .conversion import encode_hook, json_encoder, non_finite
from .errors import JobDefinitionError, MessageError
from .message import MAX_ID, MAX_NESTING, MAX_PRIORITY, MAX_RETRIES, MAX_UNIQUE_KEY, UniqueKey, nesting
from .retry_rules import Backoff, RetryRules, Rules, overlap, parse_backoff, parse_discard_on, parse_retry_on, rules_of
from .topics import topic_error
from .units import DurationLike, format_duration, seconds, shown

DEFAULT_TOPIC = "default"
DEFAULT_RETRIES = 3
Acks: TypeAlias = Literal["late", "early"]
Limits: TypeAlias = (
    "str | Callable[..., str | Iterable[str] | None] | Sequence[str | Callable[..., str | Iterable[str] | None]]"
)
"""The `limits` of a job: names, which may name arguments after a colon ("partner:{account}"), or functions of the arguments."""


class Unique(Struct, metaclass=foreign.Explained, frozen=True):
    """At most one job with the same key: while it is queued, until it is done, or for a time.

    `key` is a string, which may name arguments (`"invoice-{number}"`), or a function of the arguments; without one, all
    arguments count. On a conflict the enqueue drops the new job and returns the old one's handle, replaces the old one if
    it has not started, or raises DuplicateJob. `wait` and `longest` are explained in `debounce`.
    """

    key: str | Callable[..., str] | None = None
    scope: Literal["queued", "done"] | DurationLike = "done"
    conflict: Literal["drop", "replace", "raise"] = "drop"
    wait: DurationLike | None = None
    longest: DurationLike | None = None

    @classmethod
    @foreign.explains(foreign.UNIQUE)
    def throttle(cls, every: DurationLike, *, key: str | Callable[..., str] | None = None) -> Unique:
        """Allow at most one job in each period: jobs enqueued within `every` after an accepted one are dropped.

        Without a `key`, only calls with the same arguments conflict.
        """
        with contextlib.suppress(ValueError):  # which the definition reports, with the name of the job
            if not seconds(every):
                raise JobDefinitionError(
                    "Unique.throttle: every: expected a time of more than zero, in which one job is allowed"
                )
        return cls(key=key, scope=every, conflict="drop")

    @classmethod
    @foreign.explains(foreign.UNIQUE)
    def debounce(
        cls, wait: DurationLike, *, longest: DurationLike | None = None, key: str | Callable[..., str] = "debounce"
    ) -> Unique:
        """Run one job, with the last arguments, once no other was enqueued for `wait`: each replaces the waiting one.

        The job is due at the latest `longest` after the first enqueue; this limit needs the backend feature `debounce`.
        Without a `key`, all calls of the job function conflict.
        """
        return cls(key=key, scope="queued", conflict="replace", wait=wait, longest=longest)


class JobOptions(Struct, frozen=True, kw_only=True):
    """The options of `@job` or `using`; UNSET means that it does not set the option."""

    topic: str | UnsetType = UNSET
    retries: int | UnsetType = UNSET
    timeout: float | UnsetType | None = UNSET
    min_time: float | UnsetType | None = UNSET
    backoff: Backoff | UnsetType = UNSET
    retry_on: Rules | UnsetType | None = UNSET
    discard_on: tuple[type[BaseException], ...] | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    delay: float | UnsetType | None = UNSET
    expires: float | UnsetType | None = UNSET
    unique: Unique | UnsetType | None = UNSET
    acks: Acks | UnsetType = UNSET
    store_result: bool | UnsetType = UNSET
    key: str | Callable[..., str | None] | UnsetType | None = UNSET
    limits: tuple[str | Callable[..., Any], ...] | UnsetType = UNSET
    headers: dict[str, Any] | UnsetType = UNSET
    id: str | UnsetType = UNSET
    on_commit: bool | UnsetType = UNSET
    transaction: Any = UNSET  # an object of the application; only `using` sets it
    at: float | UnsetType | None = UNSET  # Unix time
    expires_at: float | UnsetType | None = UNSET
    encrypt: bool | UnsetType = UNSET
    resumable: bool | UnsetType = UNSET
    step_timeout: float | UnsetType | None = UNSET

    def over(self, other: JobOptions) -> JobOptions:
        """Return these options, with unset ones taken from `other`."""
        if other is NO_OVERRIDES:
            return self
        mine = {name: getattr(self, name) for name in self.__struct_fields__ if getattr(self, name) is not UNSET}
        return msgspec.structs.replace(other, **mine)


class Policy(Struct, frozen=True):
    """The rules by which a worker treats the runs of one job in one topic; the envelope may override the first three."""

    retries: int
    timeout: float | None
    store_result: bool
    backoff: Backoff
    acks: Acks
    result_ttl: float
    max_result: int = 10**6  # bytes
    rules: RetryRules | None = None  # by exception; None: every exception is retried alike
    min_time: float = 0.0  # a run that succeeds in fewer seconds is reported
    on_end: Any = None  # the jobs to enqueue when this one ends, see `worker.on_end`
    pack_result: Callable[[str, bytes], bytes] | None = None  # packs the result of the job with this id
    limits: tuple[str | Callable[..., Any], ...] = ()  # of the job function, for messages that say nothing about limits
    resumable: bool = False
    step_timeout: float | None = None
    pack_cursor: Callable[[str, bytes], bytes] | None = None  # packs the cursor of the job with this id
    sign_result: Callable[[str, str, bytes], bytes] | None = None  # signs the result of a flow's member, by flow and job id
    pack_note: Callable[[str, bytes], bytes] | None = None  # packs the progress and the log lines of the job with this id
    keep_done: float = 0.0  # seconds for which the job is kept when it is done


def parse(where: str, given: dict[str, Any]) -> JobOptions:
    """Return checked options from a developer's values; raise JobDefinitionError that names the option."""
    values: dict[str, Any] = {}
    for name, value in given.items():
        if value is UNSET:
            continue
        try:
            values[name] = _PARSERS[name](value)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise JobDefinitionError(f"{where}: {name}: {error}") from None
    if values.get("acks") == "early" and values.get("retry_on"):
        raise JobDefinitionError(
            f'{where}: retry_on: with acks="early", a job runs at most once and is never retried: leave out one of them'
        )
    if values.get("resumable") and values.get("acks") == "early":
        raise JobDefinitionError(f'{where}: resumable: with acks="early", a job runs at most once: leave out one of them')
    if values.get("step_timeout") is not None and not values.get("resumable"):
        raise JobDefinitionError(f"{where}: step_timeout: it belongs to resumable=True; timeout limits a whole run")
    both = overlap(values.get("retry_on"), values.get("discard_on"))
    if both:
        raise JobDefinitionError(f"{where}: discard_on: {both} is in retry_on, too: remove it from one of the two")
    return JobOptions(**values)


ABSOLUTE = {"at": "delay", "expires_at": "expires"}
"""The options that take a point in time, each with the option for the time until then."""


def one_time(where: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the values with `delay` unset if `at` is given, and vice versa; likewise `expires` and `expires_at`.

    Thus the option replaces the other one of an earlier `using`. Raises JobDefinitionError if both are given.
    """
    for at, after in ABSOLUTE.items():
        if given[at] is UNSET and given[after] is UNSET:
            continue
        if given[at] is not UNSET and given[after] is not UNSET:
            raise JobDefinitionError(f"{where}: {at} and {after} both say when: leave out one of them")
        given = {**given, **{name: None for name in (at, after) if given[name] is UNSET}}
    return given


def _until(at: str) -> Callable[[Any], float | None]:
    """Accept a duration; the error for a point in time names the option `at`."""

    def check(value: Any) -> float | None:
        if isinstance(value, date):
            raise ValueError(f"expected a duration, got the point in time {value}: write {at}=...")
        return _duration_or_none(value)

    return check


def _moment(value: Any) -> float | None:
    """Accept a datetime with a time zone; return it as Unix time."""
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise ValueError(f"expected a datetime with a time zone, got {shown(value)}")
    if value.utcoffset() is None:
        raise ValueError(
            f"expected a datetime with a time zone, got {value}, which has none: use datetime.now(timezone.utc) instead of "
            'datetime.now(), or add the zone: when.replace(tzinfo=ZoneInfo("Europe/Paris"))'
        )
    return value.timestamp()


def _duration_or_none(value: Any) -> float | None:
    return None if value is None else float(seconds(value))


def _unique(value: Any) -> Unique | None:
    if value is None or value is False:
        return None
    if value is True:
        return Unique()
    if isinstance(value, str):
        value = Unique(key=value)
    if not isinstance(value, Unique):
        raise ValueError(f"expected True, a key or Unique(...), got {type(value).__name__}")
    if isinstance(value.key, str):
        _stored_text(MAX_UNIQUE_KEY)(value.key)
    elif value.key is not None and not callable(value.key):
        raise ValueError(f"key: expected a string or a function of the arguments, got {type(value.key).__name__}")
    if value.scope not in ("queued", "done"):
        seconds(value.scope)
    if value.conflict not in ("drop", "replace", "raise"):
        raise ValueError(f'conflict: expected "drop", "replace" or "raise", got {value.conflict!r}')
    if value.wait is not None or value.longest is not None:
        _check_debounce(value)
    return value


def _check_debounce(value: Unique) -> None:
    if value.wait is None or (value.scope, value.conflict) != ("queued", "replace"):
        raise ValueError('wait and longest work together with scope="queued" and conflict="replace": use Unique.debounce(...)')
    wait = seconds(value.wait)
    if not wait:
        raise ValueError("wait: expected a time of more than zero")
    if value.longest is not None and seconds(value.longest) < wait:
        raise ValueError(f"longest: expected at least the wait of {wait}, got {seconds(value.longest)}")


def _in(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"expected a whole number from {low} to {high}, got {shown(value)}")
        return int(value)

    return check


def _stored_text(most: int) -> Callable[[Any], str]:
    """Accept a string of 1 to `most` characters that UTF-8 can represent."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= most:
            raise ValueError(f"expected a string of 1 to {most} characters, got {shown(value)}")
        value.encode()
        return str.__str__(value)

    return check


def _id(value: Any) -> str:
    """Accept a job's id; its limit is in bytes, because backends write it into properties, keys and commands."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID or not value.isprintable() or len(value.encode()) > MAX_ID:
        raise ValueError(f"expected 1 to {MAX_ID} printable characters, {MAX_ID} bytes in UTF-8 at most, got {shown(value)}")
    return str.__str__(value)


def _key(value: Any) -> str | Callable[..., str | None] | None:
    if value is None or callable(value):
        return value  # type: ignore[no-any-return]  # narrowed above, in a way mypy does not follow
    return _stored_text(MAX_UNIQUE_KEY)(value)


def _limits(value: Any) -> tuple[str | Callable[..., Any], ...]:
    if value is None:
        return ()
    each = (value,) if isinstance(value, str) or callable(value) else value
    if not isinstance(each, (tuple, list, set, frozenset)):
        raise ValueError(f'expected names such as ("stripe", "stripe:{{account}}"), or a function, got {shown(value)}')
    if len(each) > MOST_LIMITS:
        raise ValueError(f"a job has at most {MOST_LIMITS} limits, got {len(each)}")
    for limit in each:
        if not callable(limit):
            _limit(limit)
    return tuple(str.__str__(limit) if isinstance(limit, str) else limit for limit in each)


def _limit(value: Any) -> None:
    """Check one limit as far as that is possible without arguments: its name is always known."""
    if not isinstance(value, str):
        raise ValueError(f"expected a name or a function of the arguments, got {shown(value)}")
    name, _, rest = value.partition(":")
    if "{" in name or "}" in name:
        raise ValueError(f'the name before the colon cannot name an argument: "partner:{{account}}", got {shown(value)}')
    reason = limit_error(f"{name}:x" if "{" in rest else value)
    if reason:
        raise ValueError(reason)


def limit_error(limit: str) -> str | None:
    """Return why a text does not name a limit, or None."""
    if LIMIT.fullmatch(limit) and _encodes(limit):
        return None
    return (
        f"{shown(limit)} does not name a limit: write a name of 1 to 64 letters, digits, _ . -, and perhaps a colon and a "
        "value of 1 to 128 characters without control characters"
    )


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _headers(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"expected a dict of names and values, got {shown(value)}")
    headers = {str.__str__(name): item for name, item in value.items()}
    if nesting(json_encoder.encode(headers)) > MAX_NESTING:
        raise ValueError(f"they are nested deeper than {MAX_NESTING} levels")
    if non_finite(headers):
        raise ValueError("a value contains NaN or infinity, which JSON cannot represent")
    return headers


def _topic(value: Any) -> str:
    reason = topic_error(value) if isinstance(value, str) else f"expected a string, got {shown(value)}"
    if reason:
        raise ValueError(reason)
    return str.__str__(value)


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected True or False, got {shown(value)}")
    return value


def _acks(value: Any) -> Acks:
    if value not in ("late", "early"):
        raise ValueError(f'expected "late" or "early", got {shown(value)}')
    return value  # type: ignore[no-any-return]  # narrowed above, in a way mypy does not follow


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "topic": _topic,
    "retries": _in(0, MAX_RETRIES),
    "timeout": _duration_or_none,
    "min_time": _duration_or_none,
    "backoff": parse_backoff,
    "retry_on": lambda value: None if value is None else parse_retry_on(value),
    "discard_on": parse_discard_on,
    "priority": _in(0, MAX_PRIORITY),
    "delay": _until("at"),
    "expires": _until("expires_at"),
    "at": _moment,
    "expires_at": _moment,
    "unique": _unique,
    "acks": _acks,
    "id": _id,
    "on_commit": lambda value: None if value is None else _bool(value),
    "transaction": lambda value: value,
    "store_result": _bool,
    "encrypt": _bool,
    "resumable": _bool,
    "step_timeout": _duration_or_none,
    "key": _key,
    "limits": _limits,
    "headers": _headers,
}


def unique_key(unique: Unique, job: str, args: Any, kwargs: Any, named: Callable[[], dict[str, Any]]) -> UniqueKey:
    """Return the unique key of one call in the form that its envelope has."""
    key = f"{job}:{_key_text(unique, job, args, kwargs, named)}"
    if len(key) > MAX_UNIQUE_KEY:
        raise MessageError(
            f"{job}: the unique key of this call, with the job's name before it, has {len(key):,} characters, and the limit is "
            f"{MAX_UNIQUE_KEY}: name fewer arguments in it, or use unique=True, which takes a digest of them all"
        )
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise MessageError(f"{job}: the unique key of this call cannot be stored: {error}") from None
    scope = unique.scope
    if scope == "queued":
        longest = UNSET if unique.longest is None else float(seconds(unique.longest))
        return UniqueKey(key, "queued", unique.conflict, longest)
    if scope == "done":
        return UniqueKey(key, "done", unique.conflict)
    return UniqueKey(key, float(seconds(scope)), unique.conflict)


def refuse_foreign_placeholders(where: str, options: JobOptions, parameters: Callable[[], Mapping[str, bool]]) -> None:
    """Raise JobDefinitionError if a template names anything but a parameter of calls: no call could fill in its value.

    `parameters` returns those of the function, each with whether a call passes it; a worker injects the others.
    """
    unique = options.unique
    templates: list[tuple[str, object]] = [("unique: the key", unique.key)] if isinstance(unique, Unique) else []
    templates += [("key:", options.key)] if key_varies(options.key) else []
    templates += [("limits:", limit) for limit in options.limits] if options.limits else []
    for what, template in templates:
        if isinstance(template, str) and "{" in template:
            _refuse_foreign(f"{where}: {what}", template, parameters)


def _refuse_foreign(what: str, template: str, parameters: Callable[[], Mapping[str, bool]]) -> None:
    text = shown(template)
    try:
        names = [*_placeholders(template)]
    except ValueError as error:
        raise JobDefinitionError(f"{what} {text} is not a template ({error}): {{{{ and }}}} stand for braces") from None
    wrong = next((name for name in names if not parameters().get(name)), None)
    if wrong is not None:
        there = ", ".join(f"{{{name}}}" for name, passed in parameters().items() if passed)
        why = "which only a worker injects" if wrong in parameters() else "which is not a parameter of the function"
        raise JobDefinitionError(
            f"{what} {text} names {{{wrong}}}, {why}: it may name {there or 'nothing, because it has no parameters'}; "
            "{{ and }} stand for braces"
        )


def refuse_early(where: str, options: JobOptions, topic: Acks | None = None) -> None:
    """Raise JobDefinitionError if a job with limits is acknowledged early: it would give its slots back before it runs.

    `topic` is the setting of the job's topic.
    """
    if options.limits and (topic if options.acks is UNSET else options.acks) == "early":
        raise JobDefinitionError(
            f'{where}: limits: a job that is acknowledged before it runs (acks="early") cannot have limits, because its slots '
            'are free once it is acknowledged: leave out the limits, or use acks="late"'
        )


def warn_of_retries(where: str, options: JobOptions) -> None:
    """Warn of options for retries that a job does not have, because it is acknowledged before it runs."""
    if options.acks != "early":
        return
    given = [name for name in ("retries", "backoff") if getattr(options, name) is not UNSET and getattr(options, name) != 0]
    if given:
        import logging  # late: only this case needs it

        logging.getLogger("jobs").warning(
            '%s: %s: no effect, because a job with acks="early" runs at most once and is never retried: leave it out',
            where,
            " and ".join(given),
        )


def refuse_never(where: str, options: JobOptions, settings: Topic | None = None) -> None:
    """Raise JobDefinitionError for options that contradict each other: the job would never run, or never run in time.

    `settings` are those of the job's topic.
    """
    unique, expires, most = options.unique, options.expires, options.timeout
    if settings is not None:
        expires, most = (settings.expires if expires is UNSET else expires), (settings.timeout if most is UNSET else most)
    wait = seconds(unique.wait) if isinstance(unique, Unique) and unique.wait is not None else 0.0
    if wait and isinstance(expires, float) and wait >= expires:
        raise JobDefinitionError(
            f"{where}: unique: it waits {format_duration(wait)}, but expires after {format_duration(expires)}, so it would "
            "never run: choose a longer expires"
        )
    if isinstance(options.min_time, float) and most and options.min_time > most:
        raise JobDefinitionError(
            f"{where}: min_time: {format_duration(options.min_time)} is longer than its timeout, {format_duration(most)}, so "
            "every run would be too fast or overdue: choose a shorter min_time"
        )


def limit_varies(limit: object) -> bool:
    """Return whether a limit depends on the arguments of the call."""
    return callable(limit) or (isinstance(limit, str) and "{" in limit)


def key_varies(key: object) -> bool:
    """Return whether a key depends on the arguments of the call: it is a function, or names something in braces.

    Other braces stand for themselves, because keys were plain text before they could be templates.
    """
    if not isinstance(key, str) or "{" not in key:
        return callable(key)
    try:
        return any(name.isidentifier() for name in _placeholders(key))
    except ValueError:
        return False


def _filled(what: str, job: str, template: str, named: Callable[[], dict[str, Any]]) -> str:
    """Return a template with the arguments of a call."""
    if "{" not in template:
        return template
    try:
        return template.format(**named())
    except (LookupError, AttributeError, ValueError, TypeError) as error:
        raise JobDefinitionError(
            f"{job}: {what} {shown(template)} cannot be filled in ({type(error).__name__}: {error}): "
            "name arguments of the function in it, and write {{ and }} for braces"
        ) from None


def key_of(
    key: str | Callable[..., str | None], job: str, args: Any, kwargs: Any, named: Callable[[], dict[str, Any]]
) -> str | None:
    """Return the key of one call; None if it has none."""
    found: Any = key(*args, **kwargs) if callable(key) else _filled("key:", job, key, named) if key_varies(key) else key
    if found is None or found == "":
        return None
    if not isinstance(found, str):
        raise MessageError(f"{job}: key: the function returned {shown(found)}: return a string, or None for no key")
    if len(found) > MAX_UNIQUE_KEY or _CONTROL.search(found) or not _encodes(found):
        raise MessageError(
            f"{job}: key: {shown(found)} cannot be stored: the key of a call has at most {MAX_UNIQUE_KEY} characters, no "
            "control characters, and is valid UTF-8"
        )
    return str.__str__(found)


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def limits_of(
    limits: Iterable[str | Callable[..., Any]], job: str, args: Any, kwargs: Any, named: Callable[[], dict[str, Any]]
) -> list[str]:
    """Return the limits of one call, sorted."""
    found: set[Any] = set()
    for limit in limits:
        made = limit(*args, **kwargs) if callable(limit) else _filled("limits:", job, limit, named)
        if isinstance(made, str):
            found.add(made)
        elif isinstance(made, Iterable):
            found.update(made)
        elif made is not None:
            raise MessageError(f"{job}: limits: the function returned {shown(made)}: return a name, several, or None")
    return checked_limits(job, found)


def checked_limits(job: str, limits: Iterable[Any]) -> list[str]:
    """Return limits sorted and without duplicates; raise MessageError if one has no valid form, or there are too many."""
    found = {*limits}
    for limit in found:
        reason = limit_error(limit) if isinstance(limit, str) else f"expected the name of a limit, got {shown(limit)}"
        if reason:
            raise MessageError(f"{job}: limits: {reason}")
    if len(found) > MOST_LIMITS:
        raise MessageError(f"{job}: limits: a job has at most {MOST_LIMITS} limits, this call has {len(found)}")
    return sorted(found)


def _placeholders(template: str) -> Iterator[str]:
    """Yield the names that `str.format` would look up; raise ValueError for an invalid template."""
    for _, field, inside, conversion in string.Formatter().parse(template):
        if field is not None:
            if conversion not in (None, "r", "s", "a"):
                raise ValueError(f"unknown conversion !{conversion}")
            yield field.partition(".")[0].partition("[")[0]
            yield from _placeholders(inside or "")


def _key_text(unique: Unique, job: str, args: Any, kwargs: Any, named: Callable[[], dict[str, Any]]) -> str:
    if callable(unique.key):
        return str(unique.key(*args, **kwargs))
    if unique.key is not None:
        return _filled("unique: the key", job, unique.key, named)
    try:
        canonical = msgspec.json.encode(named(), order="sorted", enc_hook=_canonical)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise MessageError(f"{job}: the arguments cannot be written as JSON: {error}") from None
    import hashlib  # late: it loads OpenSSL, and only these keys need it

    return hashlib.sha256(canonical).hexdigest()[:32]


def _canonical(value: Any) -> Any:
    """Convert a value that JSON cannot represent, for a key: subclasses of plain types to that type, others to a string."""
    return encode_hook(value) if isinstance(value, (str, int, float, bytes)) else str(value)


def policy(options: JobOptions, topic: str, config: Config) -> Policy:
    """Return the policy for the runs of a job with these `@job` options in this topic."""
    settings = config.topic(topic)

    def first(*values: Any) -> Any:
        return next((value for value in values if value is not UNSET and value is not None), None)

    backoff = first(options.backoff, None if settings.backoff is None else parse_backoff(settings.backoff), Backoff())
    retries = first(options.retries, settings.retries, DEFAULT_RETRIES)
    timeout = settings.timeout if options.timeout is UNSET else options.timeout
    resumable = options.resumable is True
    return Policy(
        retries=retries,
        timeout=timeout or None,
        store_result=bool(first(options.store_result, settings.store_result, False)),
        backoff=backoff,
        acks="late" if resumable else first(options.acks, settings.acks, "late"),  # an early one ends the reservation
        result_ttl=float(settings.result_ttl),
        max_result=config.max_message if config.max_result is None else config.max_result,
        min_time=first(options.min_time, 0.0),
        rules=rules_of(options.retry_on, options.discard_on),
        limits=options.limits or (),
        resumable=resumable,
        step_timeout=first(options.step_timeout) or None,
        keep_done=float(settings.keep_done),
    )


def stores_result(options: JobOptions, topic: str, config: Config) -> bool:
    """Return `store_result` without computing the rest of the policy, because every enqueue needs it."""
    if options.store_result is not UNSET and options.store_result is not None:
        return bool(options.store_result)
    return bool(config.topic(topic).store_result)


def encrypts(options: JobOptions, topic: str, config: Config) -> bool:
    """Return whether arguments and results of a job are encrypted: with encryption keys, yes by default."""
    if not config.encryption_keys:
        return False
    chosen = config.topic(topic).encrypt if options.encrypt is UNSET else options.encrypt
    return chosen is not False


NO_OVERRIDES = JobOptions()
"""The overrides of a job function without `using`; each enqueue tests for this very object, which is fast."""
