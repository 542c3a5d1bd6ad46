"""The stand-in for a result that does not exist yet, and the places in a call's arguments where it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from msgspec import Struct

from .errors import FlowError
from .message import MAX_NESTING
from .units import shown


class Source(Struct, frozen=True):
    """The member whose result a placeholder stands for."""

    flow: str
    id: str
    job: str
    stage: str


class Placeholder:
    """The result of a member, before it exists. It can only be an argument; every other use raises FlowError.

    Without this, `if paid.result:` or `f"{paid.result}"` would silently compute with the stand-in.
    """

    __slots__ = ("_source",)

    def __init__(self, source: Source) -> None:
        object.__setattr__(self, "_source", source)

    def __repr__(self) -> str:
        source = source_of(self)
        return f"<result of {source.job} {source.id}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):  # Python and libraries ask for these, and expect this error
            raise AttributeError(name)
        raise _misuse(self, f"its attribute {name!r} was read")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise _misuse(self, f"its attribute {name!r} was set")

    def model_dump(self, **options: object) -> NoReturn:
        """Raise FlowError: `encode_hook` calls this for an argument of a job that is enqueued outside the flow."""
        raise _misuse(self, "it was to be written as JSON")

    def __copy__(self) -> Placeholder:
        return self

    def __deepcopy__(self, memo: object) -> Placeholder:
        return self


def _refusing(name: str) -> Any:
    def refuse(self: Placeholder, *args: object, **kwargs: object) -> NoReturn:
        raise _misuse(self, f"{name} was called on it")

    return refuse


_REFUSED = (
    "bool str format bytes hash eq ne lt le gt ge iter aiter next anext reversed len length_hint contains getitem setitem "
    "delitem call int float complex index round trunc floor ceil await enter exit aenter aexit fspath reduce_ex "
    "neg pos abs invert add sub mul matmul truediv floordiv mod divmod pow lshift rshift and or xor "
    "radd rsub rmul rmatmul rtruediv rfloordiv rmod rdivmod rpow rlshift rrshift rand ror rxor "
    "iadd isub imul imatmul itruediv ifloordiv imod ipow ilshift irshift iand ior ixor"
)
"""Everything that Python's syntax and functions can do with an object, but for `repr`, which debuggers use."""

for _name in _REFUSED.split():
    setattr(Placeholder, f"__{_name}__", _refusing(f"__{_name}__"))


def source_of(placeholder: Placeholder) -> Source:
    """Return the member whose result this is."""
    source: Source = object.__getattribute__(placeholder, "_source")
    return source


def _misuse(placeholder: Placeholder, what: str) -> FlowError:
    source = source_of(placeholder)
    return FlowError(
        f"the result of {source.job} does not exist yet, and {what}: it can only be an argument, or stand in a list or dict "
        f"of one, of a job that is added to the same flow: flow.add(job.call(member.result))"
    )


class Taken(Struct, frozen=True):
    """A call's arguments with null for each result that they take, and the members whose results these are."""

    args: list[Any]
    kwargs: dict[str, Any]
    places: dict[str, Source]  # by JSON Pointer, such as /args/1

    @property
    def sources(self) -> list[Source]:
        """Return the members, each once, in the order of the arguments."""
        return list({source.id: source for source in self.places.values()}.values())

    @property
    def flow(self) -> str:
        """Return the flow of the members, which `flow.add` has checked to be one."""
        return next(iter(self.places.values())).flow

    @property
    def parameters(self) -> set[int | str]:
        """Return the positions and names of the arguments that are results, or contain them."""
        return {parameter_of(pointer) for pointer in self.places}

    @property
    def pointers(self) -> dict[str, str]:
        """Return the ids of the members by JSON Pointer, as the envelope contains them."""
        return {pointer: source.id for pointer, source in self.places.items()}


def parameter_of(pointer: str) -> int | str:
    """Return the position or the name of the argument into which a pointer points."""
    _, kind, token = pointer.split("/")[:3]
    return int(token) if kind == "args" else unescaped(token)


def unescaped(token: str) -> str:
    """Return a token of a JSON Pointer as the key that it stands for."""
    return token.replace("~1", "/").replace("~0", "~")


def taken(job: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Taken | None:
    """Return what a call takes from other members; None if it takes no result."""
    places: dict[str, Source] = {}
    plain_args = _plain(job, list(args), "/args", places, set())
    plain_kwargs = _plain(job, dict(kwargs), "/kwargs", places, set())
    return Taken(plain_args, plain_kwargs, places) if places else None


def _plain(job: str, value: Any, pointer: str, places: dict[str, Source], around: set[int]) -> Any:
    """Return a value with null for each placeholder in it; copy only what contains one.

    `around` holds the identities of the containers around the value: one that contains itself is left to the encoder.
    """
    kind = type(value)
    if kind is Placeholder:
        places[pointer] = source_of(value)
        return None
    if not isinstance(value, (list, tuple, dict)) or id(value) in around or len(around) > MAX_NESTING:
        return value  # encoding refuses what is nested too deeply
    before = len(places)
    around.add(id(value))
    if isinstance(value, dict):
        made: Any = {key: _plain(job, each, f"{pointer}/{_token(key)}", places, around) for key, each in value.items()}
        if len(places) > before and not all(type(key) in (str, int) for key in value):
            key = next(key for key in value if type(key) not in (str, int))
            raise FlowError(f"{job}: a dict that contains a result has the key {shown(key)}: use strings as keys")
    else:
        made = [_plain(job, each, f"{pointer}/{n}", places, around) for n, each in enumerate(value)]
    around.discard(id(value))
    return made if len(places) > before else value


def _token(key: object) -> str:
    return str(key).replace("~", "~0").replace("/", "~1") if type(key) in (str, int) else ""
