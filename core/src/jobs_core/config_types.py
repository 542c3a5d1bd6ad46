"""The tables of the configuration as types: what a key may hold, and the conversion of what it is given.

config.py defines the tables, config_sources.py fills them from files and variables, and a program may create them itself.
"""

from __future__ import annotations

import functools
import os
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from . import foreign
from .config_rules import Rule
from .config_rules import path as _path_rule
from .errors import ConfigError
from .units import Duration, Size, seconds, size
from .urls import cover, redact, scheme

SECRET = {
    "backend",
    "results.url",
    "outbox.url",
    "payloads.url",
    "broker.store",
    "broker.listen",
    "signing_keys",
    "encryption_keys",
    "alerts.channels",
    "webhooks",
    "plugins",
}


class Typed(foreign.Explained):
    """A metaclass of tables: a table that a program creates takes the values of a file, and refuses those of a wrong type."""

    if not TYPE_CHECKING:  # otherwise pyright would believe that every argument is accepted

        def __call__(cls, *args, **given):  # noqa: N805 - of a metaclass
            if args or not given or not given.keys() <= set(cls.__struct_fields__):
                return super().__call__(*args, **given)  # the defaults, or an error
            return made(cls, {name: _plain(cls, name, value) for name, value in given.items()})


def made(kind: Any, values: dict[str, Any]) -> Any:
    """Return a table of values that are converted already."""
    return msgspec.StructMeta.__call__(kind, **values)


def _plain(kind: Any, name: str, value: Any) -> Any:
    """Return the value of a field that a program gives."""
    if name == "base_dir":
        return _directory(kind, value)
    return _given(fields(kind)[name].type, value, kind.__name__, name)


def _directory(kind: Any, value: Any) -> Path:
    if not isinstance(value, (str, os.PathLike)):
        raise ConfigError(f"{kind.__name__}: base_dir: expected a directory, got {show(value)}")
    return Path(value)


def _given(kind: Any, value: Any, where: str, path: str) -> Any:
    """Return a value as the type of its field; raise ConfigError that names it."""
    value = dict(value) if isinstance(value, Mapping) else value
    section = section_in(kind)
    if section is not None and (kind is section or isinstance(value, dict) or isinstance(type(value), Typed)):
        return _table(section, value, where, path)
    kind = arm_for(kind, value)
    if typing.get_origin(bare(kind)) is dict and isinstance(value, dict):
        item = typing.get_args(bare(kind))[1]
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{where}: {path}: expected strings as keys, got {show(key)}")
        return {key: _given(item, entry, where, f"{path}.{key}") for key, entry in value.items()}
    if section is not None:
        kind = next(arm for arm in arms(kind) if arm is not section)
    if kind is Any:
        return value
    if isinstance(value, os.PathLike) and any(rule is _path_rule for arm in arms(kind) for rule in rules(arm)):
        value = os.fspath(value)
    try:
        return msgspec.convert(value, kind, dec_hook=unit)
    except (msgspec.ValidationError, OverflowError) as error:
        raise ConfigError(f"{where}: {path}: {reason(error, kind, value, path).replace('a table', 'a dict')}") from None


def _table(section: Typed, value: Any, where: str, path: str) -> Any:
    if isinstance(value, section):
        return value
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {path}: expected {section.__name__}(...) or a dict, got {show(value)}")
    known = fields(section)
    for key in value:
        if key not in known:
            raise ConfigError(f"{where}: {path}: there is no key {show(key)}; {advice(section, str(key), value[key])}")
    for name, field in known.items():
        if field.required and name not in value:
            raise ConfigError(f"{where}: {path}: {name} is missing: set it")
    return made(section, {key: _given(known[key].type, item, where, f"{path}.{key}") for key, item in value.items()})


def advice(kind: Typed, key: str, value: Any) -> str:
    """Return the advice for a key that a table does not have."""
    near = foreign.close(key, fields(kind), 1)
    known = foreign.key_advice(kind.__name__, key)
    if known and not (near and isinstance(value, dict)):  # [pool.x] is a typo; `pool = "prefork"` is Celery's
        return known
    return f'did you mean "{near[0]}"?' if near else f"valid keys are {', '.join(fields(kind))}"


def meant(path: str) -> str:
    """Return what the user may have meant by a plain value in place of one of our tables, as the end of an error."""
    known = foreign.TABLES.get(path)
    return f"; {known.advice('job')}" if known else ""


@functools.cache
def fields(kind: Any) -> dict[str, msgspec.structs.FieldInfo]:
    """Return the keys of a table by name; cached, because msgspec evaluates the annotations in each call."""
    return {field.name: field for field in msgspec.structs.fields(kind) if field.name != "base_dir"}


def arm_for(kind: Any, value: Any) -> Any:
    """Return the member of a union of list and table that fits the value's form; any other type unchanged."""
    tables = [arm for arm in arms(kind) if typing.get_origin(bare(arm)) is dict]
    if not tables or len(arms(kind)) == 1:
        return kind
    return tables[0] if isinstance(value, dict) else next(arm for arm in arms(kind) if arm not in tables)


def arms(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def bare(kind: Any) -> Any:
    """Return a type without its annotations."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind


def rules(kind: Any) -> Iterator[Rule]:
    """Yield the rules in a type's annotations."""
    if typing.get_origin(kind) is typing.Annotated:
        for note in typing.get_args(kind)[1:]:
            if isinstance(note, msgspec.Meta) and note.extra:
                yield note.extra["rule"]


def section_in(kind: Any) -> Typed | None:
    for arm in arms(kind):
        if isinstance(arm, Typed):
            return arm
    return None


def takes_list(kind: Any) -> bool:
    return any(typing.get_origin(bare(arm)) is list for arm in arms(kind))


def unit(kind: type, value: Any) -> Any:
    if kind is Duration:
        return seconds(value)
    if kind is Size:
        return size(value)
    raise TypeError(f"unexpected type {kind} in the configuration")  # pragma: no cover - config.py holds no other


def reason(error: Exception, kind: Any, value: Any, path: str) -> str:
    """Return msgspec's error in terms of a configuration file, with the value, or only its type if it may be secret."""
    text = str(error).partition(" - at ")[0].replace("`", "")
    if isinstance(error, OverflowError):
        return "is too large a number"
    choices = [choice for arm in arms(kind) if typing.get_origin(arm) is typing.Literal for choice in typing.get_args(arm)]
    shown = type(value).__name__ if secret(path) else show(covered(value))
    if choices:
        return f"expected one of {', '.join(choices)}, got {shown}"
    expected = text.partition(", got ")[0]
    if not expected.startswith("Expected"):
        return "not accepted" if secret(path) else text
    for word, plain in (("array", "a list"), ("object", "a table"), (" | null", "")):
        expected = expected.replace(word, plain)
    return f"e{expected[1:]}, got {shown}"


def show(value: Any) -> str:
    """Format a value as TOML would, shortened if it is long."""
    try:
        text = msgspec.json.encode(value).decode() if isinstance(value, (str, int, float, bool, list)) else type(value).__name__
    except (OverflowError, ValueError, RecursionError, TypeError):  # a number of 400 digits, or nested too deeply
        return "a number that large" if isinstance(value, int) else f"a {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}…"


def secret(path: str) -> bool:
    return any(path == key or path.startswith(f"{key}.") for key in SECRET)


_SECRET_WORDS = {"secret", "password", "passwd", "token", "apikey"}


def is_secret(path: str, value: Any) -> bool:
    """Return whether the value of a key that may be secret is: a key, a URL with a password, or what is called a secret."""
    leaf = path.rpartition(".")[2].lower()
    if not secret(path):
        return False
    if path in ("signing_keys", "encryption_keys"):
        return bool(value)
    if isinstance(value, str) and scheme(value):
        return redact(value) != value
    return isinstance(value, str) and bool(value) and bool(_SECRET_WORDS & {leaf.replace("_", ""), *leaf.split("_")})


def covered(value: Any) -> Any:
    """Return a value, or a list of values, with the secrets of all URLs in it removed."""
    if isinstance(value, str):
        return redact(value) if scheme(value) else cover(value)
    return [covered(item) for item in value] if isinstance(value, list) else value
