"""`@job` turns a function into a registered job function, or raises an error that says why it cannot."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload

from msgspec import UNSET, UnsetType

from . import foreign
from .errors import JobDefinitionError, UnknownOption
from .job_function import Call, Enqueuer, JobFunction, is_method, set_application_source
from .message import MAX_NAME
from .options import (
    DEFAULT_TOPIC,
    Acks,
    Limits,
    Unique,
    parse,
    refuse_early,
    refuse_foreign_placeholders,
    refuse_never,
    warn_of_retries,
)
from .registry import Registry, default_registry
from .retry_rules import Backoff, DiscardOn, RetryOn
from .units import DurationLike, shown

P = ParamSpec("P")
R = TypeVar("R")  # the type that calling the function returns
T = TypeVar("T")  # the type of the job's result: for async functions, of the awaited value


@overload
def job(function: Callable[P, Coroutine[Any, Any, T]], /) -> JobFunction[P, Coroutine[Any, Any, T], T]: ...


@overload
def job(function: Callable[P, T], /) -> JobFunction[P, T, T]: ...


@overload
def job(
    *,
    name: str | None = None,
    aliases: Iterable[str] = (),
    topic: str | UnsetType = UNSET,
    retries: int | UnsetType = UNSET,
    timeout: DurationLike | UnsetType | None = UNSET,
    min_time: DurationLike | UnsetType | None = UNSET,
    backoff: Backoff | DurationLike | UnsetType = UNSET,
    retry_on: RetryOn | UnsetType | None = UNSET,
    discard_on: DiscardOn | UnsetType = UNSET,
    on_done: JobFunction[..., Any, Any] | str | None = None,
    on_dead: JobFunction[..., Any, Any] | str | None = None,
    priority: int | UnsetType = UNSET,
    expires: DurationLike | UnsetType | None = UNSET,
    unique: Unique | bool | str | UnsetType | None = UNSET,
    key: str | Callable[..., str | None] | UnsetType | None = UNSET,
    limits: Limits | UnsetType | None = UNSET,
    acks: Acks | UnsetType = UNSET,
    store_result: bool | UnsetType = UNSET,
    encrypt: bool | UnsetType = UNSET,
    resumable: bool | UnsetType = UNSET,
    step_timeout: DurationLike | UnsetType | None = UNSET,
    on_commit: bool | UnsetType = UNSET,
    cron: str | None = None,
    tz: str = "UTC",
    missed: Literal["skip", "once"] = "once",
    registry: Registry | None = None,
) -> _Decorator: ...


def job(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Register a function as a job, as plain `@job` or with options.

    `name` defaults to module.function; `aliases` are older names, whose messages run this function too. `retries` is the
    number of attempts after the first (default 3), and `backoff` the wait before the first of them. `timeout` bounds one
    run; a run that succeeds in less than `min_time` is reported. `retry_on` names the exceptions that are retried, each
    perhaps with its own rule, and `discard_on` the exceptions that are not. `on_done` and `on_dead` name a job to enqueue
    when this one succeeds or becomes a dead letter. `limits` names limits on how many such jobs run at once or start in a
    period, and jobs with different values of `key` take turns in a fair topic: see docs/together.md. `acks="early"`
    acknowledges before the run: the job runs at most once, without retries. A job that is `resumable` stores its progress,
    see `JobContext.steps`; `step_timeout` bounds each of its steps. Raises JobDefinitionError.
    """
    if function is not None:
        return _define(function, **options)
    return lambda function: _define(function, **options)


class _Decorator(Protocol):
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]], /) -> JobFunction[P, Coroutine[Any, Any, T], T]: ...

    @overload
    def __call__(self, function: Callable[P, T], /) -> JobFunction[P, T, T]: ...


_OPTIONS = (
    "name", "aliases", "topic", "retries", "timeout", "min_time", "backoff", "retry_on", "discard_on", "on_done", "on_dead",
    "priority", "expires", "unique", "key", "limits", "acks", "store_result", "encrypt", "resumable", "step_timeout",
    "on_commit", "cron", "tz", "missed", "registry",
)  # fmt: skip


def _define(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    aliases: Iterable[str] = (),
    cron: str | None = None,
    tz: str | UnsetType = UNSET,
    missed: Literal["skip", "once"] | UnsetType = UNSET,
    registry: Registry | None = None,
    on_done: Any = None,
    on_dead: Any = None,
    **options: Any,
) -> JobFunction[Any, Any, Any]:
    _refuse_non_functions(function)
    if name is None:
        name = own_name(function)
    if isinstance(aliases, str) or not isinstance(aliases, Iterable):
        what = "the string " if isinstance(aliases, str) else ""
        raise JobDefinitionError(f"{name}: aliases: expected a list of names, got {what}{shown(aliases)}")
    if registry is not None and not isinstance(registry, Registry):
        raise JobDefinitionError(
            f"{name}: registry: expected a Registry, got {shown(registry)}: leave it out for the usual one"
        )
    unknown = next((word for word in options if word not in _OPTIONS), None)
    if unknown is not None:
        advice = foreign.option_advice(unknown, function.__name__, _OPTIONS)
        raise UnknownOption(f"{name}: @job has no option {unknown}: {advice}")
    _check_times(name, cron, tz, missed)
    aliases = tuple(aliases)
    for text in (name, *aliases):
        if not isinstance(text, str) or not 0 < len(text) <= MAX_NAME or not text.isprintable() or " " in text:
            raise JobDefinitionError(f"invalid job name {shown(text)}: use 1 to {MAX_NAME} printable characters without spaces")
    for option, other in (("on_done", on_done), ("on_dead", on_dead)):
        _check_end_job(option, other, (name, *aliases))
    made: JobFunction[Any, Any, Any] = JobFunction(
        function,
        name=name,
        aliases=aliases,
        options=parse(name, options),
        cron=cron,
        tz="UTC" if tz is UNSET else tz,
        missed="once" if missed is UNSET else missed,
        on_done=on_done,
        on_dead=on_dead,
    )
    refuse_foreign_placeholders(name, made.options, lambda: made._parameters)
    refuse_early(name, made.options)
    refuse_never(name, made.options)
    warn_of_retries(name, made.options)
    (default_registry if registry is None else registry).add(made)
    return made


def _check_end_job(option: str, other: Any, names: tuple[str, ...]) -> None:
    """Refuse a value that cannot name a job, and a job that would follow itself. Workers check that it is registered."""
    if other is None:
        return
    if not isinstance(other, (JobFunction, str)) or not other:
        raise JobDefinitionError(f"{names[0]}: {option}: expected a job function, or its registered name, got {shown(other)}")
    if (other if isinstance(other, str) else other.name) in names:
        raise JobDefinitionError(f"{names[0]}: {option}: a job cannot follow itself: it might do so forever; name another job")


def _check_times(name: str, cron: Any, tz: Any, missed: Any) -> None:
    """Refuse values of the wrong type, and `tz` or `missed` without `cron`.

    The expression and the zone are parsed at their first use only: parsing them here would import the calendar modules.
    """
    for option, value in (("cron", cron), ("tz", tz)):
        if value is not UNSET and not isinstance(value, str) and (option, value) != ("cron", None):
            raise JobDefinitionError(f"{name}: {option}: expected a string, got {shown(value)}")
    if missed is not UNSET and missed not in ("skip", "once"):
        raise JobDefinitionError(f'{name}: missed: expected "skip" or "once", got {shown(missed)}')
    for option, value in (("tz", tz), ("missed", missed)):
        if cron is None and value is not UNSET:
            raise JobDefinitionError(
                f"{name}: {option}: it belongs to cron, but this job has none: leave it out, or set when the job runs: "
                f'@job(cron="0 3 * * *", {option}="{value}")'
            )


def _refuse_non_functions(function: Callable[..., Any]) -> None:
    """Raise JobDefinitionError for objects that are not functions, for methods, and for generator functions.

    An async function under a plain decorator is accepted: a worker awaits whatever the call returns.
    """
    if isinstance(function, JobFunction):
        raise JobDefinitionError(f"{function.name} is already a job: use @job once, and aliases=[...] for other names")
    if isinstance(function, (classmethod, property)) or inspect.ismethod(function):
        raise JobDefinitionError(
            f"@job takes a function, got {shown(function)}: a worker has no object or class to call it on; "
            "write a module-level function that finds the object and calls the method"
        )
    if isinstance(function, str):
        raise JobDefinitionError(
            f"@job takes a function, got the string {shown(function)}: if it is a queue, write @job(topic=...)"
        )
    innermost = _innermost(function)
    if not inspect.isfunction(innermost) or not callable(function) or isinstance(function, functools.partial):
        raise JobDefinitionError(
            f"@job takes a function, got {shown(function)}: decorate the function itself, or write one that calls this"
        )
    name = innermost.__qualname__
    for one in (function, innermost):
        if inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one):
            raise JobDefinitionError(
                f"{name} is a generator function, and calling it runs none of its code: make the job a plain function that "
                f"loops over the generator: for _ in {innermost.__name__}(): pass"
            )
    parameters = innermost.__code__.co_varnames[: innermost.__code__.co_argcount]
    if _stands_in_class(name) and parameters[:1] in (("self",), ("cls",)) and not isinstance(function, staticmethod):
        raise is_method(name, parameters[0])


def _innermost(function: Callable[..., Any]) -> Any:
    """Return the function inside all decorators that use `functools.wraps`."""
    try:
        return inspect.unwrap(function)
    except ValueError:  # the chain is circular
        return None


def _stands_in_class(qualname: str) -> bool:
    holder = qualname.rpartition(".")[0]
    return bool(holder) and not holder.endswith("<locals>")


def own_name(function: Callable[..., Any]) -> str:
    """Return the default name of a job, module.function; raise JobDefinitionError if that name is ambiguous.

    Functions made by one factory, or by a decorator without functools.wraps, all have the same name: a worker that has
    imported other modules, or in another order, would run another function. A nested function that is decorated in the
    code that contains it is accepted.
    """
    if not isinstance(function.__module__, str):
        raise JobDefinitionError(
            f"@job was given {function.__qualname__}, which has no module (exec without __name__?): "
            "name the job: @job(name=...)"
        )
    made_by, _, _ = function.__qualname__.rpartition(".<locals>.")
    if made_by and not _is_written_where_it_is_decorated(function):
        raise JobDefinitionError(
            f"@job was given {function.__qualname__} of {function.__module__}: every function that {made_by} makes has this "
            "name, so the jobs could not be told apart. If it is a decorator, have it use functools.wraps; else name "
            "each job: @job(name=...)"
        )
    return f"{function.__module__}.{function.__qualname__}"


def _is_written_where_it_is_decorated(function: Callable[..., Any]) -> bool:
    code = getattr(_innermost(function), "__code__", None)
    frame = inspect.currentframe()
    while frame is not None:
        if any(code is constant for constant in frame.f_code.co_consts):
            return True
        frame = frame.f_back
    return False


__all__ = ["DEFAULT_TOPIC", "Call", "Enqueuer", "JobFunction", "job", "set_application_source"]
