"""The arguments of a job: checked when it is enqueued, converted to the annotated types when it runs.

A call is checked against the signature and the annotations. These are compiled once per function, on its first enqueue or
when a worker starts: by then, names under `from __future__ import annotations` and forward references can be resolved. Each
parameter is compiled separately, so that an annotation that cannot be compiled does not affect the others.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec

from . import foreign
from .boundary import name_of, text_of, told
from .conversion import decode_hook, encode_hook, is_custom, without_values
from .errors import ArgumentError, FlowError, JobDefinitionError
from .units import shown

_SCALARS: frozenset[type] = frozenset({int, str, float, bool, type(None)})
_ANYTHING = (inspect.Parameter.empty, Any, object)


class Parameter:
    """One parameter's type: the values that need no conversion, and how the others are converted."""

    __slots__ = ("as_is", "name", "type")

    def __init__(self, name: str, kind: Any) -> None:
        self.name = name
        self.type = kind
        self.as_is = _scalars(kind)

    def under(self, name: str) -> Parameter:
        """Return a copy with this name for errors: the parameter `**kwargs` takes arguments of many names."""
        if name == self.name:
            return self
        other = copy.copy(self)
        other.name = name
        return other

    def check(self, value: Any, job: str) -> None:
        """Raise ArgumentError if a worker could not convert the value from JSON to the annotated type."""
        try:
            plain = msgspec.to_builtins(value, enc_hook=encode_hook, str_keys=True)
        except FlowError:  # the value is the result of a member of a flow, and the call is not in this flow
            raise
        except Exception as error:  # a model's code may raise anything
            raise ArgumentError(
                f"argument {self.name!r} of {job} cannot be written as JSON: {_reason(error)}", argument=self.name
            ) from None
        if self.type is not Any:
            self.convert(plain, job)

    def convert(self, value: Any, job: str) -> Any:
        """Convert `value`, decoded from JSON, to the annotated type; turn any exception into an ArgumentError."""
        try:
            return msgspec.convert(value, self.type, dec_hook=decode_hook, str_keys=True)
        except Exception as error:
            reason = _with_type(_reason(error), self.type)
            raise ArgumentError(f"argument {self.name!r} of {job}: {reason}", argument=self.name) from None


class Arguments:
    """The compiled signature of one function. Immutable; any thread may use it."""

    def __init__(self, function: Callable[..., Any], job: str, injected: Collection[str] = ()) -> None:
        self._job = job
        self._injected = injected  # the worker passes these parameters; messages do not contain them
        signature = _signature(function, job)
        if injected:
            kept = [parameter for name, parameter in signature.parameters.items() if name not in injected]
            signature = signature.replace(parameters=kept)
        self._bind = _binder(signature, job)
        self._signature = signature
        self.problems: list[ArgumentError] = []
        self._positional: list[Parameter] = []
        self._by_name: dict[str, Parameter] = {}
        self._rest = self._named_rest = Parameter("*", Any)
        for parameter in signature.parameters.values():
            compiled = self._compile(function, parameter)
            if parameter.kind is parameter.VAR_POSITIONAL:
                self._rest = compiled
            elif parameter.kind is parameter.VAR_KEYWORD:
                self._named_rest = compiled
            else:
                if parameter.kind is not parameter.KEYWORD_ONLY:
                    self._positional.append(compiled)
                if parameter.kind is not parameter.POSITIONAL_ONLY:
                    self._by_name[parameter.name] = compiled
        everything = (*self._positional, *self._by_name.values(), self._rest, self._named_rest)
        self._untyped = all(parameter.type is Any for parameter in everything)
        self.run_code = any(_runs_code(parameter.type) for parameter in everything)
        """True if conversion runs code of the application: it then belongs to the run, with its timeout and its attempt."""

    def _compile(self, function: Callable[..., Any], parameter: inspect.Parameter) -> Parameter:
        try:
            return Parameter(parameter.name, _resolve(function, parameter))
        except (NameError, AttributeError) as error:
            reason = (
                f"its annotation {shown(parameter.annotation)} cannot be resolved ({error}): import the name at run time, not "
                "only under TYPE_CHECKING, or annotate with Any"
            )
        except TypeError as error:
            reason = f"its type cannot be read from JSON: {' '.join(str(error).split())}"
        except Exception as error:  # text that is not Python, or any error of code that an annotation runs
            reason = (
                f"its annotation {shown(parameter.annotation)} is not a type ({type(error).__name__}: {shown(str(error))}): "
                'annotate with a type, or with Annotated[a type, "your note"]'
            )
        self.problems.append(ArgumentError(f"argument {parameter.name!r} of {self._job}: {reason}", argument=parameter.name))
        return Parameter(parameter.name, Any)

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise ArgumentError unless the call fits the signature, and its values fit the annotations. Producers use this."""
        if self._injected:
            self._refuse_injected(kwargs)
        try:
            self._bind(*args, **kwargs)
        except TypeError as error:
            raise self._misfit(error, kwargs) from None
        if self.problems:
            raise self.problems[0]
        positional = self._positional
        for index, value in enumerate(args):
            parameter = positional[index] if index < len(positional) else self._rest
            if type(value) not in parameter.as_is:
                parameter.check(value, self._job)
        if not kwargs:
            return
        for name, value in kwargs.items():
            parameter = self._by_name.get(name, self._named_rest)
            if type(value) not in parameter.as_is:
                parameter.under(name).check(value, self._job)

    def check_all_but(self, args: Sequence[Any], kwargs: Mapping[str, Any], unknown: Collection[int | str]) -> None:
        """Check a call like `check`, but not the values of these arguments, given by position or name: they come later."""
        self._refuse_injected(kwargs)
        try:
            self._bind(*args, **kwargs)
        except TypeError as error:
            raise self._misfit(error, kwargs) from None
        if self.problems:
            raise self.problems[0]
        for key, parameter in self._of_call(args, kwargs):
            value = args[key] if isinstance(key, int) else kwargs[key]
            if key not in unknown and type(value) not in parameter.as_is:
                parameter.check(value, self._job)

    def _of_call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[int | str, Parameter]]:
        """Return the parameter of each argument of a call."""
        positional = self._positional
        return [
            *((n, positional[n] if n < len(positional) else self._rest) for n in range(len(args))),
            *((name, self._by_name.get(name, self._named_rest).under(name)) for name in kwargs),
        ]

    def places_of(self, name: str | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[int | str]:
        """Return the positions and names of the arguments of a call that belong to the parameter of this name."""
        return [key for key, parameter in self._of_call(args, kwargs) if parameter.name == name]

    def _refuse_injected(self, kwargs: Mapping[str, Any]) -> None:
        for name in kwargs:
            if name in self._injected:
                raise ArgumentError(f"{self._job}: {name!r} is injected by the worker: it cannot be enqueued", argument=name)

    def _misfit(self, error: TypeError, kwargs: Mapping[str, Any]) -> ArgumentError:
        parameters = self._signature.parameters
        unknown = next((name for name in kwargs if name not in parameters and f"argument '{name}'" in str(error)), None)
        if unknown is None:
            return ArgumentError(f"{self._job}: {error}")
        said = str(error).partition(". Did you mean")[0]  # Python 3.13 adds a question of its own
        advice = foreign.argument_advice(unknown, self._job.rpartition(".")[2], parameters)
        return ArgumentError(f"{self._job}: {said}: {advice}", argument=unknown)

    def convert(self, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the call with its values converted to the annotated types; raises ArgumentError. Workers use this."""
        self.bind(args, kwargs)
        if self._untyped:
            return args, kwargs
        positional = self._positional
        for index, value in enumerate(args):
            parameter = positional[index] if index < len(positional) else self._rest
            if type(value) not in parameter.as_is and parameter.type is not Any:
                args[index] = parameter.convert(value, self._job)
        for name, value in kwargs.items():
            parameter = self._by_name.get(name, self._named_rest)
            if type(value) not in parameter.as_is and parameter.type is not Any:
                kwargs[name] = parameter.under(name).convert(value, self._job)
        return args, kwargs

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise ArgumentError unless the function accepts these arguments."""
        try:
            self._bind(*args, **kwargs)
        except TypeError as error:
            raise ArgumentError(f"{self._job}: {error}") from None

    def written(self) -> dict[str, str]:
        """Return the named parameters as the function writes them: `{"amount": "int = 1"}`."""
        found = {}
        for name, each in self._signature.parameters.items():
            if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
                kind = each.annotation if isinstance(each.annotation, str) else inspect.formatannotation(each.annotation)
                kind = "" if each.annotation is each.empty else kind
                found[name] = kind + (
                    "" if each.default is each.empty else f" = {shown(each.default)}".lstrip(" " * (not kind))
                )
        return found

    def named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the call's values by parameter name, defaults included. Slow (7 µs), so only unique keys use it."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)


def _signature(function: Callable[..., Any], job: str) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (ValueError, TypeError) as error:
        raise JobDefinitionError(
            f"{job}: the parameters of its function cannot be inspected ({error}): write a function with parameters of its "
            "own that calls this one"
        ) from None


def _reason(error: Exception) -> str:
    """Return why a value does not fit: the text of errors of msgspec and of ValueErrors, other errors with their class."""
    if not issubclass(type(error), (msgspec.ValidationError, TypeError, ValueError)):
        return without_values(told(error))
    text = without_values(text_of(error)).replace("`", "").replace(" - at $", ", at ")
    return f"{text[:1].lower()}{text[1:]}"


def _with_type(reason: str, kind: Any) -> str:
    """Add the name of the expected type to an error of msgspec, which says "object" for all types."""
    plain = isinstance(kind, type) and typing.get_origin(kind) is None  # Python 3.10 takes list[int] for a type
    name = name_of(kind) if plain else shown(kind)
    if ", at ." in reason or ", at [" in reason:
        return f"{reason} of {name}"
    return reason.replace("expected object,", f"expected object for {name},", 1)


_CODE = (
    msgspec.inspect.CustomType,
    msgspec.inspect.DataclassType,
    msgspec.inspect.EnumType,
    msgspec.inspect.ExtType,
    msgspec.inspect.NamedTupleType,
    msgspec.inspect.StructType,
)
"""Types whose conversion may run the application's code: `__post_init__`, default factories, `_missing_`, validators."""


def _runs_code(kind: Any) -> bool:
    return kind is not Any and any(isinstance(node, _CODE) for node in _nodes(msgspec.inspect.type_info(kind)))


def _resolve(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Return the parameter's annotation as a type to which msgspec can convert; raises NameError or TypeError."""
    if _is_anything(parameter.annotation):
        return Any
    unwrapped = inspect.unwrap(function)
    holder = types.SimpleNamespace(__annotations__={"it": parameter.annotation})
    names = dict(getattr(unwrapped, "__globals__", {}))
    kind = typing.get_type_hints(holder, names, enclosed(unwrapped), include_extras=True)["it"]
    if _is_anything(kind):
        return Any
    if parameter.default is None and parameter.default is not parameter.empty:
        kind = kind | None
    for node in _nodes(msgspec.inspect.type_info(kind)):
        if isinstance(node, msgspec.inspect.CustomType) and not is_custom(node.cls):
            raise TypeError(f"{node.cls!r} is not a JSON type, dataclass, Struct, pydantic model or Path")
    msgspec.json.Decoder(kind, dec_hook=decode_hook)  # refuses unions that it could not tell apart
    return kind


def enclosed(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the variables of enclosing functions that a function uses; some, such as its own name, may have no value yet."""
    found = {}
    if isinstance(function, types.FunctionType):
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # the cell is empty
                found[name] = cell.cell_contents
    return found


def _is_anything(kind: Any) -> bool:
    """Return whether an annotation accepts any value. Compares by identity, because annotations may define equality."""
    return any(kind is one for one in _ANYTHING)


def _nodes(node: Any, seen: set[int] | None = None) -> typing.Iterator[Any]:
    """Yield every type inside a type description."""
    seen = set() if seen is None else seen
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from _nodes(item, seen)
    elif isinstance(node, (msgspec.inspect.Type, msgspec.inspect.Field)):
        yield node
        for name in node.__struct_fields__:
            yield from _nodes(getattr(node, name), seen)


def _scalars(kind: Any) -> frozenset[type]:
    """Return the plain types whose values need no conversion to `kind`; encoding detects NaN."""
    if kind is Any:
        return _SCALARS
    arms = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    return frozenset(scalar for scalar in _SCALARS if scalar in arms)


def _binder(signature: inspect.Signature, job: str) -> Callable[..., None]:
    """Return a function of the same signature that does nothing: calling it checks a call in 0.1 µs."""
    parts: list[str] = []
    kinds = inspect.Parameter
    parameters = list(signature.parameters.values())
    for index, parameter in enumerate(parameters):
        previous = parameters[index - 1].kind if index else None
        if previous is kinds.POSITIONAL_ONLY and parameter.kind is not kinds.POSITIONAL_ONLY:
            parts.append("/")
        if parameter.kind is kinds.KEYWORD_ONLY and previous not in (kinds.KEYWORD_ONLY, kinds.VAR_POSITIONAL):
            parts.append("*")
        star = "*" if parameter.kind is kinds.VAR_POSITIONAL else "**" if parameter.kind is kinds.VAR_KEYWORD else ""
        default = "" if parameter.default is parameter.empty else "=None"
        parts.append(f"{star}{parameter.name}{default}")
    if parameters and parameters[-1].kind is kinds.POSITIONAL_ONLY:
        parts.append("/")
    scope: dict[str, Any] = {}
    exec(f"def job({', '.join(parts)}): pass", scope)  # safe: the names come from a real signature, so they are identifiers
    binder: Callable[..., None] = scope["job"]
    binder.__name__ = binder.__qualname__ = job.rpartition(".")[2]  # Python's error messages begin with it
    return binder


def resolve_return(function: Callable[..., Any]) -> Any:
    """Return the type to which stored results are converted: the return annotation, or Any if it cannot be used."""
    try:
        annotation = inspect.signature(function).return_annotation
        return _resolve(function, inspect.Parameter("it", inspect.Parameter.KEYWORD_ONLY, annotation=annotation))
    except Exception:  # the annotation may be any object
        return Any
