"""Compare enqueued calls with the calls that a test expects, and describe the differences."""

from __future__ import annotations

import difflib
import inspect
import pprint
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET

from ..config import Config
from ..conversion import json_encoder
from ..errors import ArgumentError
from ..message import Message
from ..options import ABSOLUTE
from ..registry import AnyJob
from ..stamp import Varying, stamp_of
from ..units import format_duration, shown

MOST_SHOWN = 10
"""Most calls that a failed assertion lists, the closest first."""

Differences: TypeAlias = dict[str, tuple[Any, Any]]
"""Name of an argument or option → (expected value, value in the call)."""

_MISSING = object()


class Raised:
    """Stands for a value for which the expected function raised an error, which matters only if no other call matches."""

    def __init__(self, value: Any, error: Exception) -> None:
        self.value = value
        self.error = error

    def __repr__(self) -> str:
        return f"{_told(self.value)}, for which it raised {type(self.error).__name__}: {self.error}"


class Expectation:
    """A call that a test expects; only the arguments and options (of `using`) that the test gives are compared.

    A value matches if it is equal, as the job will receive it or as JSON, is an instance of an expected type, or is
    accepted by an expected function.
    """

    def __init__(self, job: AnyJob, args: Sequence[Any], kwargs: Mapping[str, Any], config: Config) -> None:
        self.job = job
        signature = inspect.signature(job.function)
        in_message = [parameter for name, parameter in signature.parameters.items() if name not in job.injections]
        self._signature = signature.replace(parameters=in_message)
        try:
            bound = self._signature.bind_partial(*args, **kwargs)
        except TypeError as error:
            raise ArgumentError(f"{job.name}{self._signature} has no such call: {error}") from None
        self._arguments = self._flat(bound)
        self._options, self._varies = _options(job, config)

    def __str__(self) -> str:
        """Return the expected arguments and options as text."""
        return ", ".join(f"{name}={_told(value)}" for name, value in {**self._arguments, **self._options}.items())

    def differences(self, message: Message) -> Differences:
        """Return the expected arguments and options that an enqueued call does not match, with both values."""
        has = {**self._received(message), **_fields(message)}
        found: Differences = {}
        options = self._options if self._varies is None else {**self._options, **self._of_call(message)}
        for name, expected in {**self._arguments, **options}.items():
            value = has.get(name, _MISSING)
            try:
                fits = value is not _MISSING and _fits(expected, value)
            except Exception as error:
                fits, value = False, Raised(value, error)
            if not fits:
                found[name] = expected, value
        return found

    def _of_call(self, message: Message) -> dict[str, Any]:
        """Return the key and the limits that `using` gives a call with these arguments."""
        assert self._varies is not None
        args, kwargs = received(self.job, message)
        fields = _fields(self._varies.fill(message, self.job, args, kwargs))
        names = (name for name in ("key", "limits") if getattr(self.job.overrides, name) is not UNSET)
        return {label: fields[label] for label in map("using({})".format, names)}

    def _received(self, message: Message) -> dict[str, Any]:
        args, kwargs = received(self.job, message)
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError:  # a foreign producer's message that does not fit the function: it will become a dead letter
            return {}
        bound.apply_defaults()
        return self._flat(bound)

    def _flat(self, bound: inspect.BoundArguments) -> dict[str, Any]:
        """Return arguments by name; those of `*items` as items[0], items[1] …, those of `**others` by their keywords."""
        found: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            kind = self._signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                found.update({f"{name}[{n}]": item for n, item in enumerate(value)})
            elif kind is inspect.Parameter.VAR_KEYWORD:
                found.update(value)
            else:
                found[name] = value
        return found


def received(job: AnyJob, message: Message) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments as the job will receive them; unconverted if the conversion fails."""
    try:
        return job.arguments.convert(list(message.args), dict(message.kwargs))
    except ArgumentError:
        return message.args, message.kwargs


def _options(job: AnyJob, config: Config) -> tuple[dict[str, Any], Varying | None]:
    """Return the options that `job.using(...)` sets, with their values in an envelope, and those that depend on arguments."""
    chosen = [name for name in job.overrides.__struct_fields__ if getattr(job.overrides, name) is not UNSET]
    for at, after in ABSOLUTE.items():  # `using` sets the other one of each pair to None
        other = at if getattr(job.overrides, at) in (UNSET, None) else after
        chosen = [name for name in chosen if name != other]
    if not chosen:
        return {}, None
    stamp = stamp_of(job, config)
    fields = _fields(msgspec.structs.replace(stamp.envelope, id=stamp.id or ""))
    fields |= {f"using({at})": _About(getattr(job.overrides, at)) for at in ABSOLUTE if at in chosen}
    labels = tuple(f"using({name})" for name in chosen)
    varies = stamp.varies if {"key", "limits"} & {*chosen} else None
    return {label: value for label, value in fields.items() if label.startswith(labels)}, varies


def _fields(message: Message) -> dict[str, Any]:
    """Return the options in an envelope, under labels such as `using(topic)`, which no argument can have as its name."""
    names = ("topic", "priority", "delay", "retries", "timeout", "store_result", "key", "id")
    options = {f"using({name})": getattr(message, name) for name in names}
    headers = {f"using(headers)[{name!r}]": value for name, value in message.headers.items()}
    after = {"at": message.delay, "expires_at": message.expires_in}
    limits = {"using(limits)": message.limits or []}
    moments = {f"using({at})": None if left is None else message.enqueued_at + left for at, left in after.items()}
    return {**options, "using(expires)": message.expires_in, **limits, **moments, **headers}


class _About(float):
    """A Unix time that equals any time within a millisecond, because an envelope's times are relative to a rounded one."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and abs(float(self) - float(other)) < 0.001

    __hash__ = None  # type: ignore[assignment]


def _fits(expected: Any, value: Any) -> bool:
    if value == expected:  # includes ANY, pytest.approx and the like
        return True
    if isinstance(expected, type):
        return isinstance(value, expected)
    if callable(expected):
        return bool(expected(value))
    try:
        return bool(_as_json(expected) == _as_json(value))
    except Exception:  # the expected value is not one that can be enqueued
        return False


def _as_json(value: Any) -> Any:
    return msgspec.json.decode(json_encoder.encode(value))


def _told(value: Any) -> str:
    """Return a value as text for people; a function as its name and line."""
    if value is _MISSING:
        return "(missing)"
    if isinstance(value, type):
        return value.__qualname__
    code = getattr(value, "__code__", None)
    if callable(value) and code is not None:
        return f"<{value.__name__}, {Path(code.co_filename).name}:{code.co_firstlineno}>"
    return shown(value, 200)


# -- telling -------------------------------------------------------------------------------------------


def call_text(job: AnyJob | None, message: Message, due_in: float | None) -> str:
    """Return an enqueued call as one line: `send('a@b.c', subject='hi') in email, due in 1h`."""
    args, kwargs = (message.args, message.kwargs) if job is None else received(job, message)
    given = [*map(_told, args), *(f"{name}={_told(value)}" for name, value in kwargs.items())]
    due = f", due in {format_duration(round(due_in, 3))}" if due_in else ""
    return f"{(message.job or '').rpartition('.')[2]}({', '.join(given)}) in {message.topic}{due}"


def difference_lines(differences: Differences) -> Iterable[str]:
    """Yield the lines of a diff: expected values after a minus, enqueued values after a plus."""
    for name, (expected, has) in differences.items():
        old, new = _lines(expected), _lines(has)
        if len(old) == len(new) == 1:
            yield from (f"- {name}={old[0]}", f"+ {name}={new[0]}")
        else:
            yield f"  {name}="
            yield from (line for line in difflib.ndiff(old, new) if not line.startswith("?"))


def _lines(value: Any) -> list[str]:
    if value is _MISSING or isinstance(value, Raised) or callable(value):
        return [_told(value)]
    return pprint.pformat(value, width=100).splitlines() or [""]


def listing(blocks: Sequence[tuple[int, str]], others: Counter[str]) -> str:
    """Format the enqueued calls, the closest first; each block is (number of differences, text of the call)."""
    closest = sorted(blocks, key=lambda block: block[0])
    lines = [f"\n  {text}" for _, text in closest[:MOST_SHOWN]]
    if len(closest) > MOST_SHOWN:
        lines.append(f"\n  … and {len(closest) - MOST_SHOWN} more")
    if others:
        names = ", ".join(f"{name} ({number})" if number > 1 else name for name, number in sorted(others.items()))
        lines.append(f"\n  {'' if closest else 'none of it; '}other jobs: {names}")
    return "".join(lines) or " none"
