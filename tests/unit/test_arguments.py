"""Arguments are checked when a job is enqueued, and converted when it runs."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, Union
from unittest import mock

import msgspec
import pydantic
import pytest

from jobs_core.arguments import Arguments
from jobs_core.conversion import json_encoder
from jobs_core.errors import ArgumentError

if TYPE_CHECKING:
    from somewhere import Nowhere


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    at: dt.datetime


class Box(msgspec.Struct):
    name: str
    points: list[Point] = []


class Model(pydantic.BaseModel):
    number: int
    when: dt.date


NOW = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.timezone.utc)


def travel(function, *args, **kwargs):
    """Return a call's arguments as they arrive at a worker."""
    arguments = Arguments(function, "shop.f")
    arguments.check(args, kwargs)
    there = json.loads(json_encoder.encode([args, kwargs]))
    return arguments.convert(*there)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, 5),
        (float, 5.5),
        (str, "ž"),
        (bool, True),
        (bytes, b"\x00\xff"),
        (dt.datetime, NOW),
        (dt.date, NOW.date()),
        (dt.timedelta, dt.timedelta(seconds=90)),
        (uuid.UUID, uuid.UUID(int=7)),
        (decimal.Decimal, decimal.Decimal("1.10")),
        (Colour, Colour.RED),
        (Point, Point(1, NOW)),
        (Box, Box("b", [Point(1, NOW)])),
        (Model, Model(number=1, when=NOW.date())),
        (list[Model], [Model(number=1, when=NOW.date())]),
        (dict[str, Model], {"a": Model(number=1, when=NOW.date())}),
        (Path, Path("/tmp/x")),
        (list[Path], [Path("a")]),
        (dict[int, str], {1: "a"}),
        (set[int], {1, 2}),
        (tuple[int, ...], (1, 2)),
        (tuple[int, str], (1, "a")),
        (Optional[Point], None),
        (Optional[Point], Point(1, NOW)),
        (Union[int, str], "a"),
        (int | None, None),
        (Literal["a", "b"], "b"),
        (Annotated[int, msgspec.Meta(ge=0)], 3),
        (Any, {"x": [1]}),
    ],
)
def test_types_arrive_unchanged(kind, value):
    def f(it):
        pass

    f.__annotations__["it"] = kind
    assert travel(f, value) == ([value], {})
    assert travel(f, it=value) == ([], {"it": value})


def test_arguments_without_annotations_are_plain_json():
    assert travel(lambda a, b=1: None, {"x": 1}, b=(1, 2)) == ([{"x": 1}], {"b": [1, 2]})


def test_varieties_of_parameters_are_bound():
    def f(a: int, /, b: dt.date, *rest: uuid.UUID, c: Path, d: int = 4, **more: decimal.Decimal):
        pass

    one = uuid.UUID(int=1)
    args, kwargs = travel(f, 1, NOW.date(), one, one, c=Path("x"), e=decimal.Decimal("2.5"))
    assert args == [1, NOW.date(), one, one]
    assert kwargs == {"c": Path("x"), "e": decimal.Decimal("2.5")}


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, r"shop.f: f\(\) missing 1 required positional argument: 'a'"),
        ((1, 2, 3), {}, r"f\(\) takes from 1 to 2 positional arguments but 3 were given"),
        ((1,), {"c": 1}, r"unexpected keyword argument 'c'"),
        ((1,), {"a": 1}, "multiple values"),
    ],
)
def test_calls_that_do_not_bind_are_refused(args, kwargs, says):
    def f(a, b=1):
        pass

    for check in (Arguments(f, "shop.f").check, Arguments(f, "shop.f").bind):
        with pytest.raises(ArgumentError, match=says):
            check(args, kwargs)


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        (int, "5", "expected int, got str"),
        (int, 5.5, "expected int, got float"),
        (int, True, "expected int, got bool"),
        (str, 5, "expected str, got int"),
        (Point, {"x": "a", "at": "2026-01-01T00:00:00Z"}, r"expected int, got str, at .x"),
        (dt.datetime, "yesterday", "datetime"),
        (uuid.UUID, "x", "invalid UUID"),
        (Model, {"number": "x", "when": "2026-01-01"}, "number"),
        (Path, 5, "path"),
        (Literal["a"], "b", "invalid enum value"),
        (list[int], [1, "2"], r"at \[1\]"),
        (object(), 5, None),
    ],
)
def test_values_that_do_not_fit_are_refused_here_and_not_later(kind, value, says):
    def f(it):
        pass

    if says is None:
        kind, value, says = int, object(), "cannot be written as JSON"
    f.__annotations__["it"] = kind
    with pytest.raises(ArgumentError, match=says) as caught:
        Arguments(f, "shop.f").check((value,), {})
    assert caught.value.argument == "it"
    assert "argument 'it' of shop.f" in str(caught.value)


def test_a_mismatch_on_the_worker_names_the_argument():
    def f(a: int, *rest: int, **more: int):
        pass

    arguments = Arguments(f, "shop.f")
    for args, kwargs, name in (["x"], {}, "a"), ([1, "x"], {}, "rest"), ([1], {"z": "x"}, "z"):
        with pytest.raises(ArgumentError, match=f"argument {name!r} of shop.f: expected int, got str"):
            arguments.convert(args, kwargs)


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    number: int = 0


class Cat(msgspec.Struct, tag=True):
    pass


class Dog(msgspec.Struct, tag=True):
    pass


class Number(enum.IntEnum):
    ONE = 1


KINDS = [
    int, float, bool, bytes,
    uuid.UUID, dt.datetime, dt.date, dt.time, dt.timedelta, decimal.Decimal, Path, Colour, Number, Point,
    Model, Closed, Literal["a", "b"], Literal[1, 2], list[int], dict[str, int], dict[int, str], tuple[int, str], Cat | Dog,
    Annotated[str, msgspec.Meta(max_length=3)], Annotated[str, msgspec.Meta(pattern="^a$")], Annotated[int, msgspec.Meta(le=3)],
]  # fmt: skip
SECRETS = [
    "s3cret", 4111111111111111, ["s3cret"], {"s3cret": "s3cret"}, {"type": "s3cret"}, {"type": 4111111111111111},
    {"number": "s3cret"}, {"x": "s3cret"}, [1, 2, "s3cret"], "s3cret\nnext - at `$`", "-4111111111111111", 4111111111111111.5,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_no_error_of_ours_shows_a_value(kind):
    def f(it):
        pass

    f.__annotations__["it"] = kind
    arguments = Arguments(f, "shop.f")
    for value in SECRETS:
        for attempt in (arguments.check, arguments.convert):
            try:
                attempt([value], {})
            except ArgumentError as error:
                said = str(error)
                assert "s3cret" not in said
                assert "4111111" not in said


def test_values_are_not_shown_in_errors():
    def f(password: int):
        pass

    def g(model: Model):
        pass

    for function, value in ((f, "geheim"), (g, {"number": "geheim", "when": "2026-01-01"})):
        with pytest.raises(ArgumentError) as caught:
            Arguments(function, "shop.f").check((value,), {})
        assert "geheim" not in str(caught.value)


def test_a_type_that_json_cannot_distinguish_is_refused_by_name():
    def f(fine: Point, mixed: str | uuid.UUID, stream: type):
        pass

    arguments = Arguments(f, "shop.f")
    assert [problem.argument for problem in arguments.problems] == ["mixed", "stream"]
    with pytest.raises(ArgumentError, match="argument 'mixed' of shop.f: its type cannot be read from JSON"):
        arguments.check((Point(1, NOW), "a", int), {})


def test_a_name_that_only_type_checkers_see_is_refused_with_the_fix():
    def f(a: int, thing: Nowhere):
        pass

    (problem,) = Arguments(f, "shop.f").problems
    assert problem.argument == "thing"
    assert "TYPE_CHECKING" in str(problem)


def test_names_are_found_in_closures_and_late():
    class Local(msgspec.Struct):
        x: int

    def f(it: Local, later: Later):
        assert Local

    assert travel(f, Local(1), Later(2)) == ([Local(1), Later(2)], {})


def test_a_nested_function_may_use_a_variable_that_has_no_value_yet():
    def f(it: int):
        return f, late

    assert travel(f, 1) == ([1], {})
    late = f


@dataclasses.dataclass
class Later:
    y: int


def test_a_default_of_none_makes_an_argument_optional():
    def f(it: int = None):  # type: ignore[assignment]  # as older code writes it
        pass

    assert travel(f, None) == ([None], {})


def test_defaults_are_the_workers_and_not_sent():
    def f(a, b=object()):
        pass

    assert travel(f, 1) == ([1], {})


def test_recursive_types_are_compiled():
    assert travel(tree_job, Tree([Tree([])])) == ([Tree([Tree([])])], {})


@dataclasses.dataclass
class Tree:
    children: list[Tree]


def tree_job(tree: Tree) -> None:
    pass


def test_a_misfit_names_the_type_that_was_wanted():
    def pay(point: Point): ...

    arguments = Arguments(pay, "shop.pay")
    with pytest.raises(ArgumentError, match=r"argument 'point' of shop.pay: expected object for .*Point, got str"):
        arguments.convert(["x"], {})
    with pytest.raises(ArgumentError, match=r"argument 'point' of shop.pay: expected .*, got .*, at \.x of .*Point"):
        arguments.convert([{"x": [], "y": 1}], {})


class _HasEverything:
    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: _HasEverything()


@pytest.mark.parametrize("value", [mock.MagicMock(), mock.Mock(), _HasEverything()], ids=lambda value: type(value).__name__)
def test_an_object_that_has_every_attribute_is_refused_at_once(value: object):
    """A mock's `model_dump` returns a mock: following it would take a minute and all memory."""
    with pytest.raises(TypeError, match="is not a JSON type"):
        json_encoder.encode([value])
