"""The annotations that mark a parameter as injected."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeAlias, TypeVar

from ..arguments import enclosed
from ..errors import JobDefinitionError

T = TypeVar("T")


class Mark:
    """Metadata of an annotation: inject a value from the provider of the type, or from the provider `dependency`."""

    __slots__ = ("dependency",)

    def __init__(self, dependency: Callable[..., Any] | None = None) -> None:
        self.dependency: Callable[..., Any] | None = dependency

    def __repr__(self) -> str:
        return "Injected" if self.dependency is None else f"provided_by({self.dependency.__qualname__})"


Injected: TypeAlias = Annotated[T, Mark()]
"""`mailer: Injected[Mailer] = injected`: the worker passes what the provider of `Mailer` returns."""


class Chosen(NamedTuple):
    """A provider function that a parameter names itself, with the parameter's type."""

    kind: Any
    function: Callable[..., Any]


chosen_kinds: list[Any] = []
"""The types of parameters that name their provider; a list, because a type need not be hashable."""


def provided_by(function: Callable[..., Any], /) -> Mark:
    """Return a mark for `Annotated[Session, provided_by(open_session)]`: use this provider, even if the type has another."""
    return Mark(function)


class _Missing:
    """The default of injected parameters. Outside a worker it takes the value's place, and any use of it raises an error."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(
            f"`.{name}` was used on a parameter that nothing was injected into: only a worker injects; pass a value of your "
            "own where you call the function directly"
        )

    def __repr__(self) -> str:
        return "injected"


injected: Any = _Missing()
"""The default value of an injected parameter, so that type checkers do not require it in calls of `enqueue`."""


def injected_parameters(function: Callable[..., Any], name: str) -> dict[str, Any]:
    """Return the injected parameters of a function, each with the type or the function that identifies its provider.

    Raises a JobDefinitionError that names the function `name`, if an annotation cannot be resolved, or if a positional
    parameter follows an injected one: messages hold values by position, and none for injected parameters.
    """
    found: dict[str, Any] = {}
    positional = []
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return {}  # `Arguments` reports it
    for parameter in parameters:
        if parameter.default is injected or _may_be_marked(function, parameter.annotation):
            wanted = _wanted(function, parameter, name)
            if wanted is not None:
                if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                    raise JobDefinitionError(
                        f"{name}: the injected parameter {parameter.name!r} cannot be passed by its name: write it after a *"
                    )
                found[parameter.name] = wanted
                continue
            if parameter.default is injected:
                raise JobDefinitionError(
                    f"{name}: the default of {parameter.name!r} is `injected`, but its annotation is not Injected[...]"
                )
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.VAR_POSITIONAL) and found:
            raise JobDefinitionError(
                f"{name}: {parameter.name!r} follows the injected parameter {next(iter(found))!r}: write the injected ones "
                "last, after a *"
            )
        positional.append(parameter)
    return found


def _may_be_marked(function: Callable[..., Any], annotation: Any) -> bool:
    """Return whether an annotation is worth resolving: a string must contain the name of a mark, or be that of an alias."""
    if not isinstance(annotation, str):
        return _mark(annotation) is not None
    if "Injected" in annotation or "Annotated" in annotation or "provided_by" in annotation:
        return True
    return _mark(_named(function, annotation)) is not None


def _named(function: Callable[..., Any], name: str) -> Any:
    """Return the object with a plain or dotted name in the function's module; None for any other text."""
    first, *rest = name.split(".")
    found = getattr(inspect.unwrap(function), "__globals__", {}).get(first)
    for each in rest:
        found = getattr(found, each, None)
    return found


def _wanted(function: Callable[..., Any], parameter: inspect.Parameter, name: str) -> Any:
    """Return the type of the value to inject, or the provider that the parameter names; None if it is not injected."""
    try:
        kind = resolve(function, parameter.annotation)
    except (NameError, AttributeError, TypeError) as error:
        if parameter.default is not injected and not _names_us(parameter.annotation):
            return None  # not injected: `Arguments` reports it with the other parameters of the message
        raise JobDefinitionError(
            f"{name}: the annotation of the injected parameter {parameter.name!r} cannot be resolved ({error}): import the "
            "name at run time, not only under TYPE_CHECKING"
        ) from None
    mark = _mark(kind)
    if mark is None:
        return None
    wanted = typing.get_args(kind)[0]
    dependency = getattr(mark, "dependency", None)
    if dependency is None:
        return wanted
    if wanted not in chosen_kinds:
        chosen_kinds.append(wanted)
    return Chosen(wanted, dependency)


def _names_us(annotation: Any) -> bool:
    return isinstance(annotation, str) and ("Injected" in annotation or "provided_by" in annotation)


def _mark(kind: Any) -> Any:
    """Return the mark in a type's metadata: a `Mark`, or FastAPI's `Depends`, which has the same shape; None without one."""
    if typing.get_origin(kind) is not Annotated:
        return None
    for each in typing.get_args(kind)[1:]:
        if isinstance(each, Mark) or (type(each).__name__ == "Depends" and callable(getattr(each, "dependency", None))):
            return each
    return None


def resolve(function: Callable[..., Any], annotation: Any) -> Any:
    """Return an annotation as a type; raises whatever evaluating its text raises."""
    unwrapped = inspect.unwrap(function)
    names: dict[str, Any] = dict(getattr(unwrapped, "__globals__", {}))
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    return typing.get_type_hints(holder, names, enclosed(unwrapped), include_extras=True)["it"]
