"""Retry rules: after which exceptions a job is retried, how often, and after how long a wait."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple, TypeAlias

from msgspec import Struct

from . import foreign
from .boundary import name_of
from .errors import JobCancelled, JobSignal
from .message import MAX_RETRIES
from .units import DurationLike, seconds, shown

LONGEST = 3600.0


class Backoff(Struct, metaclass=foreign.Explained, frozen=True):
    """The wait before a retry: a random time up to a limit that grows from `first` by `factor`, up to `longest`.

    This is "full jitter" of Brooker, Exponential Backoff And Jitter (AWS Architecture Blog, 2015).
    """

    first: DurationLike = 2.0
    longest: DurationLike = LONGEST
    factor: float = 2.0

    def ceiling(self, attempt: int) -> float:
        """Return the longest wait after an attempt, counted from 1, in seconds."""
        return min(float(seconds(self.longest)), float(seconds(self.first)) * self.factor ** min(attempt - 1, 64))


class RetryRule(Struct, metaclass=foreign.Explained, frozen=True, kw_only=True):
    """The rule for one class of exceptions in `retry_on`. A field that is `None` follows the job's own setting."""

    retries: int | None = None
    backoff: Backoff | DurationLike | None = None


class Rule(NamedTuple):
    """A checked RetryRule."""

    retries: int | None = None
    backoff: Backoff | None = None


Rules: TypeAlias = "tuple[tuple[type[BaseException], Rule], ...]"
DiscardOn: TypeAlias = "type[BaseException] | Sequence[type[BaseException]] | Set[type[BaseException]]"
RetryOn: TypeAlias = "DiscardOn | Mapping[type[BaseException], RetryRule | Backoff | DurationLike | None]"

MOST_FACTOR = 100.0


def parse_backoff(value: Any) -> Backoff:
    """Return a checked Backoff whose times are seconds; raise ValueError."""
    if not isinstance(value, Backoff):
        value = Backoff(first=float(seconds(value)))
    factor = value.factor
    if not isinstance(factor, (int, float)) or isinstance(factor, bool) or not 1 <= factor <= MOST_FACTOR:
        raise ValueError(f"factor: expected a number from 1 (the wait stays the same) to {MOST_FACTOR:g}, got {shown(factor)}")
    first, longest = float(seconds(value.first)), float(seconds(value.longest))
    if longest == LONGEST:  # the default
        longest = max(first, longest)
    if longest < first:
        raise ValueError(f"longest: expected at least the first wait, {first:g} s, got {longest:g} s")
    return Backoff(first, longest, float(factor))


def parse_retry_on(value: Any) -> Rules:
    """Return the rule of each class that `retry_on` names; raise ValueError."""
    if not isinstance(value, Mapping):
        return tuple((kind, _PLAIN) for kind in _classes(value))
    return tuple((kind, _rule(kind, rule)) for kind, rule in zip(_classes(value), value.values(), strict=True))


def parse_discard_on(value: Any) -> tuple[type[BaseException], ...]:
    """Return the classes that `discard_on` names; raise ValueError."""
    if isinstance(value, Mapping):
        raise ValueError("expected exception classes, got a mapping: a job that is discarded has no further rules")
    return tuple(_classes(value))


def _classes(value: Any) -> list[type[BaseException]]:
    if isinstance(value, type):
        value = (value,)
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"expected exception classes, such as (ConnectionError, TimeoutError), got {shown(value)}")
    kinds = list(value)
    for kind in kinds:
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            raise ValueError(
                f"expected exception classes, such as (ConnectionError, TimeoutError), got {shown(kind)} among them"
            )
        if issubclass(kind, (JobSignal, JobCancelled)):
            raise ValueError(f"{kind.__name__} always means the same: leave it out")
        if sum(kind is other for other in kinds) > 1:
            raise ValueError(f"{kind.__name__} is listed twice: once is enough")
    return kinds


def _rule(kind: type[BaseException], value: Any) -> Rule:
    try:
        rule = value if isinstance(value, RetryRule) else RetryRule(backoff=value)
        retries = rule.retries
        if retries is not None and (
            not isinstance(retries, int) or isinstance(retries, bool) or not 0 <= retries <= MAX_RETRIES
        ):
            raise ValueError(f"retries: expected a whole number from 0 to {MAX_RETRIES}, got {shown(retries)}")
        return Rule(retries, None if rule.backoff is None else parse_backoff(rule.backoff))
    except ValueError as error:
        raise ValueError(f"{kind.__name__}: {error}") from None


class RetryRules:
    """The rules of one job: of the listed classes to which an exception belongs, the most derived one decides.

    It is the first in the exception's method resolution order. As in `except`, virtual subclasses do not count. Classes are
    compared by identity, because a metaclass of the application may define equality.
    """

    def __init__(self, retried: Rules | None, discarded: tuple[type[BaseException], ...]) -> None:
        self._retried = None if retried is None else {id(kind): rule for kind, rule in retried}
        self._discarded = frozenset(map(id, discarded))
        self._alive = retried, discarded  # keeps the classes alive, so that no other class gets one of their ids

    def verdict(self, kind: type[BaseException]) -> Rule | str:
        """Return the rule for an exception of this class, or the reason why the job is not retried after it."""
        for base in _mro(kind):
            if id(base) in self._discarded:
                belongs = "is" if kind is base else f"is a {_name(base)}, which is"
                return f"discarded: {_name(kind)} {belongs} in discard_on"
            if self._retried is not None and id(base) in self._retried:
                return self._retried[id(base)]
        return _PLAIN if self._retried is None else f"not retried: {_name(kind)} is not in retry_on"


def rules_of(retry_on: object, discard_on: object) -> RetryRules | None:
    """Return the rules of parsed options; None if neither option is given, so that all exceptions are treated alike."""
    retried = retry_on if isinstance(retry_on, tuple) else None
    discarded = discard_on if isinstance(discard_on, tuple) else ()
    return RetryRules(retried, discarded) if retried is not None or discarded else None


def overlap(retry_on: object, discard_on: object) -> str | None:
    """Return the name of a class that is in both parsed options."""
    if not isinstance(retry_on, tuple) or not isinstance(discard_on, tuple):
        return None
    retried = {id(kind) for kind, _ in retry_on}
    return next((kind.__name__ for kind in discard_on if id(kind) in retried), None)


def _name(kind: type) -> str:
    return name_of(kind).rpartition(".")[2]


_PLAIN = Rule()
_mro = type.__dict__["__mro__"].__get__  # not `kind.__mro__`, which an application's metaclass may override
