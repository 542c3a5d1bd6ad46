"""Actions: commands of `jobsctl` that run beside the screen, on a thread, with their output and questions in a window."""

from __future__ import annotations

import re
import shlex
import threading
from collections.abc import Callable, Sequence

import click
from msgspec import Struct

from ...errors import JobsError
from .. import output
from ..common import Context, exit_code
from ..exits import Exit

_PROGRESS = re.compile(r"[\d,]+ of [\d,]+")


class Act(Struct, frozen=True):
    """One action: what it is about, its command, and the question to ask first; "" if the command asks by itself."""

    about: str
    words: tuple[str, ...]  # the command line after `jobsctl`; a lone "--" comes before ids, which may begin with "-"
    question: str = ""

    @property
    def typed(self) -> str:
        """Return the command as a user would type it."""
        plain = [word for number, word in enumerate(self.words) if word != "--" or self.words[number + 1].startswith("-")]
        return output.in_this_command(f"jobsctl {shlex.join(plain)}")


def run_command(context: Context, words: Sequence[str], window: output.Window) -> int:
    """Run a command of `jobsctl` in this thread, with its output in a window; return its exit code. Raises nothing."""
    from ..main import cli, show  # late: it imports this package

    with output.into(window):
        try:
            command = cli.get_command(click.Context(cli), words[0])
            assert command is not None
            return int(command.main(list(words[1:]), f"jobsctl {words[0]}", standalone_mode=False, obj=context) or Exit.FINE)
        except JobsError as error:
            for line in str(error).splitlines():
                output.echo(f"jobs: {line}", err=True)
            return int(exit_code(error))
        except click.ClickException as error:
            show(error)
            return error.exit_code
        except Exception as error:  # a fault of ours, or of a plugin: the screen says so, and goes on
            output.echo(f"jobs: {type(error).__name__}: {error}", err=True)
            return int(Exit.FAILED)


class Doer:
    """The thread that carries out actions, one at a time. Attributes are read by the screen; methods are called by it."""

    def __init__(self, context: Context, wake: Callable[[], None]) -> None:
        self._context = context
        self._wake = wake
        self._changed = threading.Condition()
        self._answer: bool | None = None
        self.doing: Act | None = None
        self.question = ""  # of the command that runs; the screen answers it
        self.said: list[str] = []  # by the command that runs, or ran last
        self.done: Act | None = None  # the last action
        self.code = 0  # its exit code

    def do(self, act: Act, width: int) -> bool:
        """Begin an action; return False if another one is running."""
        if self.doing is not None:
            return False
        self.doing, self.said, self.done = act, [], None
        threading.Thread(target=self._run, args=(act, width), name="jobs-top-action", daemon=True).start()
        return True

    def _run(self, act: Act, width: int) -> None:
        self.code = run_command(self._context, act.words, output.Window(width, self._write, self._ask))
        self.done, self.doing = act, None
        self._wake()

    def _write(self, text: str) -> None:
        if self.said and _PROGRESS.fullmatch(self.said[-1]):  # the next line takes its place
            self.said.pop()
        self.said += text.rstrip("\n").split("\n")
        self._wake()

    def _ask(self, question: str) -> bool:
        with self._changed:
            self._answer, self.question = None, question
            self._wake()
            self._changed.wait_for(lambda: self._answer is not None)
            return bool(self._answer)

    def answer(self, agreed: bool) -> None:
        """Answer the question of the command that runs."""
        with self._changed:
            self._answer, self.question = agreed, ""
            self._changed.notify_all()
