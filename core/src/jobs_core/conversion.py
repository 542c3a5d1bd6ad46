"""Conversion of types that msgspec does not support, in both directions: paths, and pydantic models by duck typing."""

from __future__ import annotations

import math
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec


def encode_hook(value: Any) -> Any:
    """Encode values that msgspec cannot write: paths, pydantic models by duck typing, and subclasses of plain types.

    Django's SafeString and NumPy's float64, for example, are written as str and float. msgspec itself handles subclasses
    of list, tuple and dict.
    """
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__add__(value, 0)
    if isinstance(value, bytes):
        return bytes.__getitem__(value, slice(None))
    dump = getattr(type(value), "model_dump", None)  # look at the class: an instance of a mock or proxy has every attribute
    if dump is not None:
        return dump(value, mode="json")
    raise TypeError(f"{type(value).__qualname__} is not a JSON type, dataclass, Struct, pydantic model or Path")


def decode_hook(kind: type, value: Any) -> Any:
    """Decode values that `encode_hook` has encoded."""
    if isinstance(kind, type) and issubclass(kind, pathlib.PurePath):
        if not isinstance(value, str):
            raise TypeError(f"expected str for a path, got {type(value).__name__}")
        return kind(value)
    validate = getattr(kind, "model_validate", None)
    if validate is not None:
        return _validate(validate, value)
    raise TypeError(f"{kind!r} cannot be read from JSON")


def _validate(validate: Callable[[Any], Any], value: Any) -> Any:
    try:
        return validate(value)
    except ValueError as error:
        details = getattr(error, "errors", None)
        if details is None:
            raise
        # pydantic's own text shows the input, which may be secret.
        told = [f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in details()]
        raise ValueError("; ".join(told)) from None


def without_values(text: str) -> str:
    """Remove the value from an error text of msgspec or the standard library, because it may be secret."""
    return _SHOWN_VALUE.sub(lambda match: next(filter(None, match.groups())), text)


# "Invalid enum value 'x' - at `$.a`", "Object contains unknown field `x`", "can't encode character '\\x' in …", "… : 'x'"
_SHOWN_VALUE = re.compile(
    r"(Invalid (?:enum )?value) .*?(?= - at [`$]|$)|(Object contains unknown field) `.*?`(?= - at [`$]|$)"
    r"|(can't encode characters?) '.*?'(?= in position)|(could not convert string to float|invalid literal for [a-z]+\(\)"
    r"(?: with base \d+)?|Invalid isoformat string|badly formed [a-z ]+string): .*",
    re.DOTALL,
)


def is_custom(kind: Any) -> bool:
    """Return whether the hooks handle this type."""
    return isinstance(kind, type) and (issubclass(kind, pathlib.PurePath) or hasattr(kind, "model_validate"))


json_encoder = msgspec.json.Encoder(enc_hook=encode_hook)
"""Writes arguments and results; safe from any thread."""


def may_hide_non_finite(encoded: bytes) -> bool:
    """Return whether the encoded value may have contained NaN or infinity: msgspec writes them as null, or as keys by name.

    This is cheap, and spares most values the search of `non_finite`.
    """
    return b"null" in encoded or b"nan" in encoded or b"inf" in encoded


def non_finite(value: Any) -> bool:
    """Return whether a value contains NaN or infinity, at any depth."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, Mapping):
        return any(non_finite(key) or non_finite(item) for key, item in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(map(non_finite, value))
    if value is None or isinstance(value, (str, bytes, int)):
        return False
    fields = getattr(value, "__struct_fields__", None) or getattr(value, "__dataclass_fields__", None)
    return fields is not None and any(non_finite(getattr(value, name, None)) for name in fields)
