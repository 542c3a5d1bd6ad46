"""The options with which `jobsctl dead retry` changes dead letters before it retries them: other arguments, another topic."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click
import msgspec
from msgspec import Struct

from ..amending import Arguments, Edit, amended, arguments_of, setting
from ..backends.base import JobRecord
from ..config_rules import arguments as arguments_error
from ..errors import ArgumentError, JobsError
from ..message import Message
from ..worker.main import prepare
from . import output
from .common import Context, fail, literal
from .exits import Exit
from .types import TOPIC
from .waiting import importing_application

F = TypeVar("F", bound=Callable[..., Any])


class Change(Struct, frozen=True):
    """What is to be different about the dead letters that are retried."""

    to: str = ""  # the topic to which they move
    edits: bool = False  # in the editor
    args: str | None = None  # JSON
    kwargs: str | None = None
    values: tuple[tuple[str, Any], ...] = ()

    @property
    def given(self) -> bool:
        return bool(self.to) or self.changes_arguments

    @property
    def changes_arguments(self) -> bool:
        return self.edits or self.args is not None or self.kwargs is not None or bool(self.values)

    @property
    def is_of_one(self) -> bool:
        """Return whether it states all arguments, and so can apply to a single dead letter only."""
        return self.edits or self.args is not None or self.kwargs is not None

    def payload(self, context: Context, record: JobRecord) -> bytes:
        """Return the new payload of a dead letter; raises JobsError if it cannot be changed like that."""
        if self.edits:
            return _edited(context, record, self.to)
        edit: Edit | None = None
        if self.values:
            edit = setting(context.app, dict(self.values))
        elif self.changes_arguments:
            edit = self._stated
        return amended(context.app, record, edit, self.to)

    def _stated(self, message: Message) -> Arguments:
        args = message.args if self.args is None else _parsed("--args", self.args, list)
        kwargs = message.kwargs if self.kwargs is None else _parsed("--kwargs", self.kwargs, dict)
        return args, kwargs


UNCHANGED = Change()


def change_options(command: F) -> F:
    """Add the options that change dead letters to a command, which gets a `Change` as `change`."""

    @functools.wraps(command)
    def changing(*args: Any, to: str | None, edit: bool, new_args: str | None, new_kwargs: str | None,
                 given: tuple[str, ...], **rest: Any) -> Any:  # fmt: skip
        change = Change(to or "", edit, new_args, new_kwargs, tuple(map(_value, given)))
        if edit and (new_args is not None or new_kwargs is not None or given):
            fail("--edit opens the arguments in an editor: leave out --args, --kwargs and --set", Exit.USAGE)
        if given and (new_args is not None or new_kwargs is not None):
            fail("--set changes single arguments: leave out --args and --kwargs", Exit.USAGE)
        return command(*args, **rest, change=change)

    for option in (
        click.option("--to", metavar="TOPIC", type=TOPIC, help="Move them to this topic, and retry them there."),
        click.option(
            "--set", "given", metavar="NAME=VALUE", multiple=True, help="Give this parameter another value; repeat for more."
        ),
        click.option("--kwargs", "new_kwargs", metavar="JSON", help="The keyword arguments of one dead letter, as an object."),
        click.option("--args", "new_args", metavar="JSON", help="The positional arguments of one dead letter, as an array."),
        click.option("--edit", is_flag=True, help="Edit the arguments of one dead letter in $EDITOR first."),
    ):
        option(changing)
    return changing  # type: ignore[return-value]


def prepare_for(context: Context, change: Change) -> None:
    """Import the application if arguments change, which are checked against the job's signature; warn of an unserved target."""
    if change.to and context.app.config.is_unserved(change.to):
        output.echo(
            f"jobs: no pool of this configuration serves topic {change.to}: the jobs wait there for workers elsewhere",
            err=True,
        )
    if change.changes_arguments:
        with importing_application():
            prepare(context.app, uses_backend=False)


def _value(pair: str) -> tuple[str, Any]:
    name, equals, value = pair.partition("=")
    if not equals or not name.isidentifier():
        fail(f"--set: expected NAME=VALUE, got {pair}", Exit.USAGE)
    return name, literal(value)


def _parsed(option: str, text: str, kind: type[Any]) -> Any:
    try:
        value = msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise ArgumentError(f"{option}: not JSON: {error}") from None
    if type(value) is not kind:
        raise ArgumentError(f"{option}: expected {'an array' if kind is list else 'an object'}")
    if reason := arguments_error(value):
        raise ArgumentError(f"{option}: {reason}")
    return value


class _Call(Struct, forbid_unknown_fields=True):
    """What the editor shows."""

    args: list[Any] = []
    kwargs: dict[str, Any] = {}


def _edited(context: Context, record: JobRecord, to: str) -> bytes:
    """Open the arguments of a dead letter in the user's editor until they fit; end the command if the user gives up."""
    message = arguments_of(context.app, record)
    amended(context.app, record, None, to)  # refuses at once what cannot be signed
    text = msgspec.json.format(msgspec.json.encode(_Call(message.args, message.kwargs)), indent=2).decode() + "\n"
    while True:
        try:
            written = click.edit(text, extension=".json")
        except click.ClickException as error:
            fail(f"the editor failed: {error.format_message()}: set EDITOR, or pass --args and --kwargs")
        if written is None:
            fail("nothing was changed in the editor: nothing was done")
        text = written
        try:
            call = msgspec.json.decode(text.encode(), type=_Call)
            if reason := arguments_error([call.args, call.kwargs]):
                raise ArgumentError(reason)
            return amended(context.app, record, functools.partial(_given, call), to)
        except (msgspec.MsgspecError, UnicodeError, RecursionError, JobsError) as error:
            _ask_again(str(error))


def _given(call: _Call, message: Message) -> Arguments:
    return call.args, call.kwargs


def _ask_again(reason: str) -> None:
    output.echo(f"jobs: {reason}", err=True)
    if not sys.stdin.isatty() or not click.confirm("Edit again?", default=True):
        _give_up()


def _give_up() -> NoReturn:
    fail("the dead letter was not changed")
