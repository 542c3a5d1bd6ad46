"""A `JobFunction` can be called as before, and enqueued. `@job` (job.py) makes them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Final, Generic, Literal, NamedTuple, ParamSpec, Protocol, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from . import foreign
from .arguments import Arguments, resolve_return
from .backends.base import Outgoing
from .conversion import decode_hook
from .errors import FlowError, JobDefinitionError, ResultNotStored
from .handle import JobHandle
from .injection.markers import injected_parameters
from .options import (
    NO_OVERRIDES,
    JobOptions,
    Limits,
    Unique,
    one_time,
    parse,
    refuse_early,
    refuse_foreign_placeholders,
    refuse_never,
)
from .units import DurationLike

if TYPE_CHECKING:
    from .backends.base import Backend
    from .backends.flows import FlowStatus, Part
    from .placeholders import Taken

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")  # the type that calling the function returns
T = TypeVar("T")  # the type of the job's result: for async functions, of the awaited value
U = TypeVar("U")
A = TypeVar("A")  # the type of the first argument
A_contra = TypeVar("A_contra", contravariant=True)
T_co = TypeVar("T_co", covariant=True)


class _Lazy(Generic[T]):
    """An attribute that is computed on first use; two threads at once may compute it twice, with equal values.

    Before Python 3.12, `functools.cached_property` holds a lock while it computes: a child forked at that moment would
    wait for it forever.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self._name = make.__name__
        self.__doc__ = make.__doc__

    def __get__(self, instance: Any, owner: type) -> T:
        if instance is None:
            raise AttributeError(self._name)  # only instances have the attribute
        made = self._make(instance)
        instance.__dict__[self._name] = made
        return made


class Call(msgspec.Struct, Generic[T_co], eq=False):
    """A job function with its arguments, for enqueuing many at once."""

    job: JobFunction[Any, Any, T_co]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    if not TYPE_CHECKING:  # a type checker refuses this by itself

        def __or__(self, other):
            raise no_pipe(self, other)


class Step(msgspec.Struct, Generic[A_contra, T_co], eq=False):
    """A job function with all arguments but the first, which is the result of the job before it in a chain."""

    job: JobFunction[Any, Any, T_co]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    if not TYPE_CHECKING:

        def __or__(self, other):
            raise no_pipe(self, other)


def spelled(work: object) -> str:
    """Return how a call, a step, a chain or a group is written."""
    if isinstance(work, (Call, Step)):
        return f"{work.job.name.rpartition('.')[2]}.{type(work).__name__.lower()}(...)"
    if isinstance(work, JobFunction):
        return f"{work.name.rpartition('.')[2]}.step(...)"
    return f"{type(work).__name__.lower()}(...)"


def no_pipe(left: object, right: object) -> FlowError:
    """Return the error for `left | right`, which composes signatures in Celery."""
    return FlowError(f"calls are not composed with |: write chain({spelled(left)}, {spelled(right)}).enqueue()")


class Enqueuer(Protocol):
    """The methods of an application that a job function, a flow or a running job calls."""

    def enqueue(self, call: Call[T]) -> JobHandle[T]: ...

    async def aenqueue(self, call: Call[T]) -> JobHandle[T]: ...

    def enqueue_many(self, calls: Iterable[Call[T]]) -> list[JobHandle[T]]: ...

    async def aenqueue_many(self, calls: Iterable[Call[T]]) -> list[JobHandle[T]]: ...

    def prepare(self, call: Call[T]) -> tuple[Outgoing, JobHandle[T]]: ...

    def find_handle(self, job: JobFunction[Any, Any, T], job_id: str) -> JobHandle[T]: ...

    def renewed(self, job: JobFunction[Any, Any, Any], sent: Outgoing) -> Outgoing: ...

    def prepare_member(
        self, call: Call[T], takes: Taken | None, headers: Mapping[str, Any]
    ) -> tuple[Outgoing, JobHandle[T]]: ...

    def push_flow(
        self,
        parts: Sequence[tuple[Part, list[Outgoing]]],
        jobs: Iterable[JobFunction[Any, Any, Any]],
        transaction: object = None,
    ) -> None: ...

    async def apush_flow(
        self,
        parts: Sequence[tuple[Part, list[Outgoing]]],
        jobs: Iterable[JobFunction[Any, Any, Any]],
        transaction: object = None,
    ) -> None: ...

    def flow_result(self, flow: str, job_id: str, stored: bytes) -> Any: ...

    def flow_status(self, flow_id: str) -> FlowStatus | None: ...

    def withdraw(self, item_id: str) -> bool: ...

    def operate(self, action: Callable[[Backend], U]) -> U: ...

    def may_be_in_job(self) -> bool: ...


class _TakesFirst(Protocol[A_contra, Q, T_co]):
    """A job function with at least one parameter."""

    @property
    def call(self) -> Callable[Concatenate[A_contra, Q], Call[T_co]]: ...


class _StepMethod:
    """The method `step` of a job function: a descriptor, since mypy cannot infer the first argument from `self`."""

    def __get__(self, job: _TakesFirst[A, Q, U], owner: type) -> Callable[Q, Step[A, U]]:
        def step(*args: Q.args, **kwargs: Q.kwargs) -> Step[A, U]:
            return Step(job, args, kwargs)  # type: ignore[arg-type]  # it is a JobFunction

        return step


class JobFunction(Generic[P, R, T]):
    """A registered function. Calling it runs the function here; `enqueue` has a worker run it.

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
        on_done: JobFunction[..., Any, Any] | str | None = None,
        on_dead: JobFunction[..., Any, Any] | str | None = None,
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
                raise is_method(function.__qualname__, parameter.name)

    @_Lazy
    def arguments(self) -> Arguments:
        """Return the compiled signature; compiled on first use, when the names in annotations can be resolved."""
        return Arguments(self.function, self.name, self.injections)

    @_Lazy
    def injections(self) -> dict[str, Any]:
        """Return the parameters that a worker injects, with the type or function of their providers."""
        return injected_parameters(self.function, self.name)

    @_Lazy
    def body(self) -> Callable[..., Any]:
        """Return the callable for a message's arguments: the function itself, or one that injects its other parameters."""
        if not self.injections:
            return self.function
        from .injection.resolving import injecting  # late: most jobs have no injected parameters

        return injecting(self.function, self.injections, self.name)

    @_Lazy
    def _result_type(self) -> Any:
        return resolve_return(self.function)

    def convert_result(self, value: Any) -> T:
        """Convert a stored result to the annotated return type; raise ResultNotStored if it does not fit."""
        try:
            converted: T = msgspec.convert(value, self._result_type, dec_hook=decode_hook, str_keys=True)
        except (msgspec.ValidationError, TypeError, ValueError) as error:
            raise ResultNotStored(f"the stored result of {self.name} does not fit its annotation: {error}") from None
        return converted

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[T]:
        """Enqueue a call of this function; the job is stored durably when this returns.

        Raises ArgumentError if the arguments do not fit the function, MessageTooLarge, DuplicateJob (only with
        `conflict="raise"`), QueueFull, and BackendUnavailable after `enqueue_timeout`.
        """
        if "on_commit" in kwargs:
            return _application().enqueue(self._call_on_commit(args, kwargs))
        return _application().enqueue(Call(self, args, kwargs))

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[T]:
        """Enqueue without blocking the event loop. If the await is cancelled, the job may have been enqueued anyway."""
        if "on_commit" in kwargs:
            return await _application().aenqueue(self._call_on_commit(args, kwargs))
        return await _application().aenqueue(Call(self, args, kwargs))

    def _call_on_commit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[T]:
        """Treat `enqueue(..., on_commit=True)` as `using(on_commit=True)`, unless the function itself takes `on_commit`."""
        parameters = inspect.signature(self.function).parameters
        if "on_commit" in parameters or any(item.kind is item.VAR_KEYWORD for item in parameters.values()):
            return Call(self, args, kwargs)
        return Call(self.using(on_commit=kwargs.pop("on_commit")), args, kwargs)

    def handle(self, job_id: str) -> JobHandle[T]:
        """Return the handle of an earlier job of this function, from any process; the backend is not asked."""
        return _application().find_handle(self, job_id)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        """Return a call of this function with arguments, for `enqueue_many`, flows, chains and groups."""
        return Call(self, args, kwargs)

    step: ClassVar[_StepMethod] = _StepMethod()
    """Return a call without its first argument, for a chain: there it is the result of the job before."""

    def enqueue_many(self, calls: Iterable[Call[T] | tuple[Any, ...] | dict[str, Any]]) -> list[JobHandle[T]]:
        """Enqueue many jobs in one round trip; each item is a `call(...)`, a tuple of arguments or a dict of them."""
        return _application().enqueue_many(map(self._as_call, calls))

    async def aenqueue_many(self, calls: Iterable[Call[T] | tuple[Any, ...] | dict[str, Any]]) -> list[JobHandle[T]]:
        """Enqueue many jobs without blocking the event loop; see `enqueue_many`."""
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
        key: str | Callable[..., str | None] | UnsetType | None = UNSET,
        limits: Limits | UnsetType | None = UNSET,
        headers: Mapping[str, Any] | UnsetType = UNSET,
        id: str | UnsetType = UNSET,
        on_commit: bool | UnsetType = UNSET,
        transaction: Any = UNSET,
        at: datetime | UnsetType | None = UNSET,
        expires_at: datetime | UnsetType | None = UNSET,
    ) -> JobFunction[P, R, T]:
        """Return the same job function with other options for the jobs that it enqueues.

        Durations are seconds, a timedelta or a string ("5m"). Instead of `delay` and `expires`, `at` and `expires_at` take
        a datetime with a time zone. `key` and `limits` are explained in docs/together.md. `id` sets the job's id; if the
        backend has a job with this id, no job is added. With `on_commit`, the job is sent when the database transaction
        around the enqueue commits, and not at all if it rolls back; this needs a plugin that handles transactions
        (jobs-django). `transaction` is a connection or session of the application on the database in which the jobs are
        stored (jobs-postgres): the enqueue becomes part of the transaction that is open there, so that the job exists if and
        only if it commits. Raises JobDefinitionError for a value out of range.
        """
        given = {
            "delay": delay, "priority": priority, "topic": topic, "retries": retries, "timeout": timeout,
            "expires": expires, "unique": unique, "store_result": store_result, "key": key, "limits": limits,
            "headers": headers, "id": id, "on_commit": on_commit, "transaction": transaction, "at": at,
            "expires_at": expires_at,
        }  # fmt: skip
        twin: JobFunction[P, R, T] = object.__new__(JobFunction)
        twin.__dict__.update(self.__dict__)
        overrides = parse(f"{self.name}.using", one_time(f"{self.name}.using", given))
        refuse_foreign_placeholders(f"{self.name}.using", overrides, lambda: self._parameters)
        twin.overrides = overrides.over(self.overrides)
        resolved = twin.overrides.over(self.options)
        refuse_early(f"{self.name}.using", resolved)
        refuse_never(f"{self.name}.using", resolved)
        return twin

    @_Lazy
    def _parameters(self) -> dict[str, bool]:
        """Return the function's parameters, each with whether a call passes it; a worker injects the others."""
        try:
            injected: dict[str, Any] = self.injections
        except (JobDefinitionError, NameError):  # reported when the worker starts, or once the names are defined
            injected = {}
        return {name: name not in injected for name in inspect.signature(self.function).parameters}

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


def current_enqueuer() -> Enqueuer:
    """Return the application of this process."""
    return _application()


def set_application_source(source: Callable[[], Enqueuer]) -> None:
    """Set the function that returns the application; app/current.py calls this, so that this module need not import it."""
    global _application
    _application = source


class Execution(NamedTuple):
    """One execution of a module's code: an import, or a reload."""

    module: str
    spec: object  # a new object for each execution, even if a reload keeps the module object


def execution_that_defines() -> Execution:
    """Return the innermost module execution on the stack; outside of any, one with an empty name."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    names = frame.f_globals if frame is not None else {}
    return Execution(names.get("__name__", ""), names.get("__spec__"))


def is_method(name: str, own: str) -> JobDefinitionError:
    return JobDefinitionError(
        f"{name} is a method, and a worker has no {own} to call it on: write a module-level function that takes what is "
        "needed to find the object and calls the method, or make it a @staticmethod if it needs no object"
    )
