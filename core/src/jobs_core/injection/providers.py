"""The providers of injected values: functions that create a value, and may clean it up after a `yield`."""

from __future__ import annotations

import collections.abc
import contextlib
import inspect
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Literal, TypeAlias, TypeVar, overload

from ..boundary import name_of
from ..errors import JobDefinitionError
from ..units import shown
from .markers import Chosen, chosen_kinds, injected_parameters, resolve

F = TypeVar("F", bound=Callable[..., Any])
Scope: TypeAlias = Literal["run", "worker"]


class Style(Enum):
    """The kinds of functions that can be providers."""

    PLAIN = "a function that returns it"
    GENERATOR = "a generator that yields it once"
    ASYNC = "an async function that returns it"
    ASYNC_GENERATOR = "an async generator that yields it once"


class Provider:
    """One provider. Immutable once compiled; any thread may use it."""

    def __init__(self, function: Callable[..., Any], scope: Scope) -> None:
        self.function = function
        self.scope = scope
        self.name = f"{function.__module__}.{function.__qualname__}"
        self.style = _style(function)
        self.needs: dict[str, tuple[Any, Provider]] = {}
        self.is_async = self.style in (Style.ASYNC, Style.ASYNC_GENERATOR)
        """True if only async code can use its value, because it is async, or needs a provider that is."""
        self._compiled = False

    def compile(self, above: tuple[Provider, ...] = ()) -> Provider:
        """Find the providers that this one needs; raise JobDefinitionError if one is missing or they form a circle."""
        if self._compiled:
            return self
        if self in above:
            circle = " → ".join(each.name for each in (*above[above.index(self) :], self))
            raise JobDefinitionError(f"providers need one another in a circle: {circle}")
        wanted = injected_parameters(self.function, self.name)
        for parameter in inspect.signature(self.function).parameters.values():
            if parameter.name not in wanted and parameter.default is parameter.empty and parameter.kind < parameter.VAR_KEYWORD:
                if parameter.kind is parameter.VAR_POSITIONAL:
                    continue
                raise JobDefinitionError(
                    f"provider {self.name}: nothing is known to pass as {parameter.name!r}: annotate it with Injected[...], or "
                    "give it a default"
                )
        for name, key in wanted.items():
            need = provider_of(key, f"provider {self.name}: parameter {name!r}").compile((*above, self))
            if self.scope == "worker" and need.scope == "run":
                raise JobDefinitionError(
                    f"provider {self.name} keeps its value for the whole worker, but needs {need.name}, which is made for each "
                    "run: give both the same scope"
                )
            self.needs[name] = key, need
            self.is_async = self.is_async or need.is_async
        self._compiled = True
        return self


_registered: list[Provider] = []
_by_type: dict[Any, Provider] = {}
_by_function: dict[Callable[..., Any], Provider] = {}
_overridden: list[tuple[Any, Callable[[], Any]]] = []
"""By type or provider function, the innermost block first."""


@overload
def provides(function: F, /) -> F: ...


@overload
def provides(*, scope: Scope = "run") -> Callable[[F], F]: ...


def provides(function: Any = None, /, *, scope: Scope = "run") -> Any:
    """Register a function as the provider of its return type, and return it unchanged.

    It returns the value, or yields it once and cleans up afterwards; for async jobs it may be async. Its own parameters may
    be injected. With `scope="run"`, each run of a job gets its own value, which the other providers of the run share. With
    "worker", the value is created at its first use in a worker and kept until the worker ends. If the run raises an
    exception, it is raised at the `yield`. Raises JobDefinitionError.
    """
    if scope not in ("run", "worker"):
        raise JobDefinitionError(f'@provides: scope: expected "run" or "worker", got {scope!r}')

    def register(function: F) -> F:
        if not inspect.isroutine(function):
            raise JobDefinitionError(f"@provides takes a function, got {shown(function)}")
        provider = Provider(function, scope)
        # Replace providers of the same name if a reload has made new code objects; functions of one factory share theirs.
        _registered[:] = [
            each
            for each in _registered
            if each.function is not function and (each.name != provider.name or _code(each.function) is _code(function))
        ]
        _registered.append(provider)
        _by_function[function] = provider
        _by_type.clear()
        return function

    return register if function is None else register(function)


def provider_of(key: Any, what: str) -> Provider:
    """Return the provider for a type or a function; raise a JobDefinitionError about `what` if there is none."""
    if isinstance(key, Chosen):
        if key.function not in _by_function:
            _by_function[key.function] = Provider(key.function, "run")
        return _by_function[key.function]
    if not _by_type:
        _index()
    provider = _by_type.get(key)
    if provider is None:
        known = ", ".join(sorted(_told(each) for each in _by_type)) or "nothing yet"
        raise JobDefinitionError(
            f"{what}: no provider returns {_told(key)}: write one with @provides, in a module that workers import; provided "
            f"are: {known}"
        )
    return provider


def _index() -> None:
    """Map types to providers. Annotations are resolved only here, because by now all modules are imported."""
    found: dict[Any, Provider] = {}
    for provider in _registered:
        kind = _provided_type(provider)
        other = found.setdefault(kind, provider)
        if other is not provider:
            raise JobDefinitionError(
                f"{other.name} and {provider.name} both provide {_told(kind)}: keep one, or choose in each job by "
                "Annotated[..., provided_by(function)]"
            )
    _by_type.update(found)  # in one step, because other threads may read it meanwhile


_YIELDING = (
    collections.abc.Iterator,
    collections.abc.Generator,
    collections.abc.AsyncIterator,
    collections.abc.AsyncGenerator,
    collections.abc.Iterable,
    collections.abc.AsyncIterable,
)


def _provided_type(provider: Provider) -> Any:
    function = provider.function
    annotation = inspect.signature(function).return_annotation
    if annotation is inspect.Signature.empty:
        raise JobDefinitionError(f"provider {provider.name}: annotate what it returns: that is the type that it provides")
    try:
        kind = resolve(function, annotation)
    except (NameError, AttributeError, TypeError) as error:
        raise JobDefinitionError(
            f"provider {provider.name}: its return annotation cannot be resolved ({error}): import the name at run time"
        ) from None
    if provider.style in (Style.GENERATOR, Style.ASYNC_GENERATOR):
        if typing.get_origin(kind) not in _YIELDING:
            raise JobDefinitionError(
                f"provider {provider.name} yields: annotate it with Iterator[...] (or AsyncIterator[...]), got {_told(kind)}"
            )
        return typing.get_args(kind)[0]
    return kind


def _told(kind: Any) -> str:
    """Return a type as it is written in source code."""
    return name_of(kind) if isinstance(kind, type) and typing.get_origin(kind) is None else shown(kind)


def _code(function: Callable[..., Any]) -> Any:
    return getattr(inspect.unwrap(function), "__code__", None)


def _style(function: Callable[..., Any]) -> Style:
    function = inspect.unwrap(function)
    if inspect.isasyncgenfunction(function):
        return Style.ASYNC_GENERATOR
    if inspect.iscoroutinefunction(function):
        return Style.ASYNC
    return Style.GENERATOR if inspect.isgeneratorfunction(function) else Style.PLAIN


_UNSET: Any = object()


@contextlib.contextmanager
def override(key: Any, /, value: Any = _UNSET, *, provider: Callable[[], Any] | None = None) -> Iterator[None]:
    """In tests: inside the block, inject `value`, or the result of `provider`, for a type or a provider function.

    Raises JobDefinitionError if nothing provides the type. A type that parameters take from a function of their own
    (`provided_by`) is known once the job was used, so this error comes at the end of the block.
    """
    if (value is _UNSET) is (provider is None):
        raise TypeError("override() takes a value, or provider=a function without parameters")
    entry = key, (lambda: value) if provider is None else provider
    _overridden.insert(0, entry)
    try:
        yield
    finally:
        _overridden[:] = [each for each in _overridden if each is not entry]
    _refuse_unprovided(key)


def _refuse_unprovided(key: Any) -> None:
    """Raise JobDefinitionError if a test has replaced a type that nothing provides: it replaced nothing."""
    if inspect.isroutine(key) or key in chosen_kinds:
        return
    try:
        provider_of(key, "override")
    except JobDefinitionError as error:
        if key not in _by_type:
            raise JobDefinitionError(f"{error}; or give override() one of these, or a provider function") from None


def overriding() -> bool:
    """Return whether a test overrides a provider: no value is then kept for the worker, since it may contain the override."""
    return bool(_overridden)


def overridden(key: Any, provider: Provider) -> Callable[[], Any] | None:
    """Return the function with which a test has replaced a provider, or the type `key`; None if no test has."""
    if not _overridden:
        return None
    kind = key.kind if isinstance(key, Chosen) else key
    return next((replacement for each, replacement in _overridden if each in (kind, provider.function)), None)
