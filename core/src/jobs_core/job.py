"""`@job` turns a function into a job function: still callable, and able to be enqueued."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any, Final, Generic, Literal, ParamSpec, Protocol, TypeVar, overload

import msgspec
from msgspec import UNSET, UnsetType

from . import foreign
from .arguments import Arguments, resolve_return
from .conversion import decode_hook
from .errors import JobDefinitionError, ResultNotStored, UnknownOption
from .handle import JobHandle
from .injection.markers import injected_parameters
from .message import MAX_NAME
from .options import DEFAULT_TOPIC, NO_OVERRIDES, Acks, JobOptions, Unique, parse, refuse_foreign_placeholders
from .registry import AnyJob, Registry, default_registry, execution_that_defines
from .retry_rules import Backoff, DiscardOn, RetryOn
from .units import DurationLike, shown

P = ParamSpec("P")
R = TypeVar("R")  # the type that calling the function returns
T = TypeVar("T")  # the type of the job's result: for async functions, of the awaited value


class _Lazy(Generic[T]):
    """An attribute that is made on first use; if two threads do so at once, it is made twice, with equal values.

    Before Python 3.12, `functools.cached_property` holds a lock meanwhile: a child forked in that moment would wait
    forever.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self._name = make.__name__
        self.__doc__ = make.__doc__

    def __get__(self, instance: Any, owner: type) -> T:
        if instance is None:
            raise AttributeError(self._name)  # on the class: there is none
        made = self._make(instance)
        instance.__dict__[self._name] = made
        return made


class Call(msgspec.Struct, Generic[T], eq=False):
    """A job function with its arguments, for enqueuing many at once."""

    job: JobFunction[Any, Any, T]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Enqueuer(Protocol):
    """The methods of an application that a job function needs."""

    def enqueue(self, call: Call[T]) -> JobHandle[T]: ...

    async def aenqueue(self, call: Call[T]) -> JobHandle[T]: ...

    def enqueue_many(self, calls: Iterable[Call[T]]) -> list[JobHandle[T]]: ...

    async def aenqueue_many(self, calls: Iterable[Call[T]]) -> list[JobHandle[T]]: ...

    def find_handle(self, job: JobFunction[Any, Any, T], job_id: str) -> JobHandle[T]: ...


class JobFunction(Generic[P, R, T]):
    """A registered function. Calling it calls the function; `enqueue` lets a worker call it.

    Immutable; any thread may use it.
    """

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str,
        aliases: tuple[str, ...],
        options: JobOptions,
        cron: str | None,
        tz: str,
        missed: Literal["skip", "once"],
        on_done: AnyJob | str | None = None,
        on_dead: AnyJob | str | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function: Final = function
        self.name: Final = name
        self.aliases: Final = aliases
        self.options: Final = options
        self.cron: Final = cron
        self.tz: Final = tz
        self.missed: Final = missed
        self.on_done: Final = on_done
        self.on_dead: Final = on_dead
        self.defined: Final = execution_that_defines()
        self.is_async: Final = inspect.iscoroutinefunction(function)
        self.overrides = NO_OVERRIDES

    @property
    def settings(self) -> tuple[Any, ...]:
        """Return all settings of this job besides its function and name."""
        return self.aliases, self.options, self.cron, self.tz, self.missed, self.on_done, self.on_dead

    def __set_name__(self, owner: type, name: str) -> None:
        """Refuse a method, whatever its first parameter is called.

        Python calls this for a class whose body contains the function.
        """
        function = self.function
        if isinstance(function, staticmethod) or getattr(function, "__qualname__", "") != f"{owner.__qualname__}.{name}":
            return
        for parameter in list(inspect.signature(function).parameters.values())[:1]:
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                raise _is_method(function.__qualname__, parameter.name)

    @_Lazy
    def arguments(self) -> Arguments:
        """Return the compiled signature; made on first use, when all modules are imported."""
        return Arguments(self.function, self.name, self.injections)

    @_Lazy
    def injections(self) -> dict[str, Any]:
        """Return the parameters that a worker injects, with the type or function of their providers."""
        return injected_parameters(self.function, self.name)

    @_Lazy
    def body(self) -> Callable[..., Any]:
        """Return what a worker calls with the arguments of a message: the function, or one that injects the rest."""
        if not self.injections:
            return self.function
        from .injection.resolving import injecting  # late: most jobs need nothing of it

        return injecting(self.function, self.injections, self.name)

    @_Lazy
    def _result_type(self) -> Any:
        return resolve_return(self.function)

    def convert_result(self, value: Any) -> T:
        """Convert a stored result to the annotated type; raise ResultNotStored if this code's annotation does not fit it."""
        try:
            converted: T = msgspec.convert(value, self._result_type, dec_hook=decode_hook, str_keys=True)
        except (msgspec.ValidationError, TypeError, ValueError) as error:
            raise ResultNotStored(f"the stored result of {self.name} does not fit its annotation: {error}") from None
        return converted

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[T]:
        """Enqueue a call of this function for a worker; durable when it returns.

        Raises ArgumentError for arguments that do not fit, MessageTooLarge, DuplicateJob (only with `conflict="raise"`),
        QueueFull, and BackendUnavailable after `enqueue_timeout`.
        """
        if "on_commit" in kwargs:
            return _application().enqueue(self._call_on_commit(args, kwargs))
        return _application().enqueue(Call(self, args, kwargs))

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[T]:
        """`enqueue` without blocking the event loop. If it is cancelled, the job may have been enqueued anyway."""
        if "on_commit" in kwargs:
            return await _application().aenqueue(self._call_on_commit(args, kwargs))
        return await _application().aenqueue(Call(self, args, kwargs))

    def _call_on_commit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[T]:
        """Treat `enqueue(..., on_commit=True)` as `using(on_commit=True)`, unless the function has such a parameter."""
        parameters = inspect.signature(self.function).parameters
        if "on_commit" in parameters or any(item.kind is item.VAR_KEYWORD for item in parameters.values()):
            return Call(self, args, kwargs)
        return Call(self.using(on_commit=kwargs.pop("on_commit")), args, kwargs)

    def handle(self, job_id: str) -> JobHandle[T]:
        """Return the handle of an earlier job of this function, perhaps enqueued by another process. No request is sent."""
        return _application().find_handle(self, job_id)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        """Return a call of this function with arguments, for `enqueue_many`."""
        return Call(self, args, kwargs)

    def enqueue_many(self, calls: Iterable[Call[T] | tuple[Any, ...] | dict[str, Any]]) -> list[JobHandle[T]]:
        """Enqueue many jobs in one round trip; each item is a `call(...)`, a tuple of arguments or a dict of them."""
        return _application().enqueue_many(map(self._as_call, calls))

    async def aenqueue_many(self, calls: Iterable[Call[T] | tuple[Any, ...] | dict[str, Any]]) -> list[JobHandle[T]]:
        """`enqueue_many` without blocking the event loop."""
        return await _application().aenqueue_many([self._as_call(item) for item in calls])

    @foreign.explains(foreign.OPTIONS)
    def using(
        self,
        *,
        delay: DurationLike | UnsetType | None = UNSET,
        priority: int | UnsetType = UNSET,
        topic: str | UnsetType = UNSET,
        retries: int | UnsetType = UNSET,
        timeout: DurationLike | UnsetType | None = UNSET,
        expires: DurationLike | UnsetType | None = UNSET,
        unique: Unique | bool | str | UnsetType | None = UNSET,
        store_result: bool | UnsetType = UNSET,
        key: str | UnsetType | None = UNSET,
        headers: Mapping[str, Any] | UnsetType = UNSET,
        id: str | UnsetType = UNSET,
        on_commit: bool | UnsetType = UNSET,
    ) -> JobFunction[P, R, T]:
        """Return the same job function with other options for the jobs that it enqueues.

        Durations are seconds, a timedelta or a string ("5m"). `id` chooses the job's id beforehand; an id that is in the
        queue already adds nothing. With `on_commit` the job is sent when the database transaction around the enqueue
        commits, and never if that is rolled back; this needs a framework's plugin that handles transactions (jobs-django).
        Raises JobDefinitionError for a value out of range.
        """
        given = {
            "delay": delay, "priority": priority, "topic": topic, "retries": retries, "timeout": timeout,
            "expires": expires, "unique": unique, "store_result": store_result, "key": key, "headers": headers, "id": id,
            "on_commit": on_commit,
        }  # fmt: skip
        twin: JobFunction[P, R, T] = object.__new__(JobFunction)
        twin.__dict__.update(self.__dict__)
        overrides = parse(f"{self.name}.using", given)
        refuse_foreign_placeholders(f"{self.name}.using", overrides.unique, lambda: self._parameters)
        twin.overrides = overrides.over(self.overrides)
        return twin

    @_Lazy
    def _parameters(self) -> Collection[str]:
        return tuple(inspect.signature(self.function).parameters)

    def _as_call(self, item: Call[T] | tuple[Any, ...] | dict[str, Any]) -> Call[T]:
        if isinstance(item, tuple):
            return Call(self, item, {})
        if isinstance(item, dict):
            return Call(self, (), item)
        if isinstance(item, Call):
            return item
        raise JobDefinitionError(
            f"{self.name}.enqueue_many: expected a call(...), a tuple or a dict for each job, got {type(item).__name__}"
        )

    def __repr__(self) -> str:
        return f"<job {self.name}>"


foreign.teach(JobFunction, foreign.METHODS)


def _no_application() -> Enqueuer:
    raise RuntimeError("jobs_core.app is not imported")  # pragma: no cover - the package imports it


_application: Callable[[], Enqueuer] = _no_application


def set_application_source(source: Callable[[], Enqueuer]) -> None:
    """Tell job functions where their application comes from; app.py does so, and this module need not import it."""
    global _application
    _application = source


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
    backoff: Backoff | DurationLike | UnsetType = UNSET,
    retry_on: RetryOn | UnsetType | None = UNSET,
    discard_on: DiscardOn | UnsetType = UNSET,
    on_done: JobFunction[..., Any, Any] | str | None = None,
    on_dead: JobFunction[..., Any, Any] | str | None = None,
    priority: int | UnsetType = UNSET,
    expires: DurationLike | UnsetType | None = UNSET,
    unique: Unique | bool | str | UnsetType | None = UNSET,
    acks: Acks | UnsetType = UNSET,
    store_result: bool | UnsetType = UNSET,
    on_commit: bool | UnsetType = UNSET,
    cron: str | None = None,
    tz: str = "UTC",
    missed: Literal["skip", "once"] = "once",
    registry: Registry | None = None,
) -> _Decorator: ...


def job(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Register a function as a job; with options, or without as plain `@job`.

    `name` defaults to module.function, `aliases` are older names whose messages still come here. `retries` are further
    attempts after the first (default 3), `timeout` bounds one run, `backoff` the first retry's wait. `retry_on` names the
    exceptions that are retried, perhaps each with a rule of its own, and `discard_on` those that are not. `on_done` and
    `on_dead` name the job that is enqueued with this one's end. `acks="early"` acknowledges before the run: at most once,
    no retries. Raises JobDefinitionError.
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
    "name", "aliases", "topic", "retries", "timeout", "backoff", "retry_on", "discard_on", "on_done", "on_dead", "priority",
    "expires", "unique", "acks", "store_result", "on_commit", "cron", "tz", "missed", "registry",
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
    if isinstance(aliases, str):
        raise JobDefinitionError(f"{name}: aliases: expected a list of names, got the string {shown(aliases)}")
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
    refuse_foreign_placeholders(name, made.options.unique, lambda: made._parameters)
    (default_registry if registry is None else registry).add(made)
    return made


def _check_end_job(option: str, other: Any, names: tuple[str, ...]) -> None:
    """Refuse what cannot name a job, and a job that would follow itself. Whether the name is registered, workers check."""
    if other is None:
        return
    if not isinstance(other, (JobFunction, str)) or not other:
        raise JobDefinitionError(f"{names[0]}: {option}: expected a job function, or its registered name, got {shown(other)}")
    if (other if isinstance(other, str) else other.name) in names:
        raise JobDefinitionError(f"{names[0]}: {option}: a job cannot follow itself: it might do so forever; name another job")


def _check_times(name: str, cron: Any, tz: Any, missed: Any) -> None:
    """Refuse values that can never be a time, and options that need a missing cron.

    Whether expression and zone are valid is checked at their use: parsing them costs the import of a calendar.
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
    """Raise JobDefinitionError for objects that are not functions, and functions whose call alone would run none of their
    code.

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
        raise _is_method(name, parameters[0])


def _is_method(name: str, own: str) -> JobDefinitionError:
    return JobDefinitionError(
        f"{name} is a method, and a worker has no {own} to call it on: write a module-level function that takes what is "
        "needed to find the object and calls the method, or make it a @staticmethod if it needs no object"
    )


def _innermost(function: Callable[..., Any]) -> Any:
    """Return the function inside all decorators that declare it (`functools.wraps`)."""
    try:
        return inspect.unwrap(function)
    except ValueError:  # the chain is circular
        return None


def _stands_in_class(qualname: str) -> bool:
    holder = qualname.rpartition(".")[0]
    return bool(holder) and not holder.endswith("<locals>")


def own_name(function: Callable[..., Any]) -> str:
    """Return the default name of a job: module.function. Raises JobDefinitionError for a function that it does not identify.

    Functions made by one factory, or by a decorator without functools.wraps, all have the same name: a worker that has
    imported other modules, or in another order, would run another one. If a decorator is applied to a function inside a
    function, its author knows the effect.
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
