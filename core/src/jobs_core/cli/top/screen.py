"""The screen of `top`: the views above one another, dialogs, and the loop that draws and reads keys."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct
from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions
from rich.live import Live
from rich.text import Text

from ...errors import JobsError
from ...escapes import in_one_line
from ...scoreboard.state import Board, read_board
from ...supervisor import pidfile
from .. import output
from ..common import Context
from .acting import Act, Doer
from .drawing import BAD, BOLD, CHOSEN, DIM, GOOD, WARN, Line, clipped
from .help import explained
from .jobs import GroupsView
from .machines import MachinesView, WorkersView
from .page import Page
from .reading import Reader
from .terminal import END, Keyboard, keyboard
from .topics import NowView, TopicsView
from .views import Keys, TextView, View

TITLE: Final = "jobs top"

MOST_SAID: Final = 3
"""Most lines of an action's output that are shown below the view."""

COMMON: Final[Keys] = (("?", "help"), ("q", "quit"))

Prompt = Callable[[str], "str | None"]


class Dialog(Struct):
    """A question about an action, or about the end of the program, which only the key y answers with yes."""

    question: str
    lines: Sequence[str]
    agree: Callable[[], None]
    refuse: Callable[[], None] = lambda: None


class Editor(Struct):
    """A line that the user edits."""

    label: str
    text: str
    then: Prompt
    error: str = ""


class Screen:
    """All that is on the terminal; used by the main thread alone."""

    def __init__(self, context: Context, interval: float) -> None:
        self._context = context
        self._directory = context.place.run_dir
        self._interval = interval
        self._page = Page()
        self._tabs: list[View] = [
            NowView(self._page),
            TopicsView(self._page),
            GroupsView(),
            MachinesView(self._page),
            WorkersView(self._page),
        ]
        self._views: list[View] = [self._tabs[0]]
        self._wake: Callable[[], None] = lambda: None
        self._reader = Reader(context, lambda: self._wake())
        self._doer = Doer(context, lambda: self._wake())
        self._last: Act | None = None  # the action that ended last
        self._last_seen = True  # what it said has been read
        self._dialog: Dialog | None = None
        self._editor: Editor | None = None
        self._message = ""
        self._over = False
        self._body = 20  # lines of the content, as last drawn
        self._width = 80

    # -- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        """Draw until the user quits."""
        with contextlib.suppress(JobsError):  # the views that need a backend say what is wrong
            _ = self._context.app
        terminal = sys.stdout.fileno()
        console = Console(file=sys.stdout)
        stray = io.StringIO()  # what a library prints would spoil the screen
        with (
            keyboard() as keys,
            Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live,
        ):
            self._wake = keys.wake
            self._reader.start()
            with contextlib.redirect_stdout(stray), contextlib.redirect_stderr(stray):
                self._loop(keys, console, live, terminal)

    def _loop(self, keys: Keyboard, console: Console, live: Live, terminal: int) -> None:
        look = 0.0
        while not self._over:
            if time.monotonic() >= look:
                self._page.look(self._board())
                look = time.monotonic() + self._interval
            self._notice()
            width, height = os.get_terminal_size(terminal)
            console.size = ConsoleDimensions(width, height)  # COLUMNS and LINES, if they are exported, know of no new size
            live.update(rendered(self.frame(width, height)), refresh=True)
            for key in keys.wait(look - time.monotonic()):
                self._press(key)

    def _board(self) -> Board:
        try:
            return read_board(self._directory) if pidfile.running(self._directory) else Board()
        except JobsError:  # the directory belongs to another user by now
            return Board()

    def _notice(self) -> None:
        """Take over what the other threads have done since the last frame."""
        self._reader.show(self.view if self.view.reads else None)
        if self._doer.question and self._dialog is None and self._doer.doing is not None:
            act = self._doer.doing
            self._dialog = Dialog(
                self._doer.question, [act.about, act.typed], lambda: self._doer.answer(True), lambda: self._doer.answer(False)
            )
        if self._doer.done is not None:
            done, self._doer.done = self._doer.done, None
            self._message = ""
            self._last, self._last_seen = done, False
            self._reader.refresh()

    @property
    def view(self) -> View:
        """Return the view that is shown."""
        return self._views[-1]

    # -- drawing ---------------------------------------------------------------------------------

    def frame(self, width: int, height: int) -> list[Line]:
        """Return the lines of the whole screen."""
        below = [*self.view.troubles(), *self._below(width)]
        heading = self.view.heading()
        above = [self._bar(width), *([Line(heading, BOLD)] if heading else []), Line("")]
        self._width, self._body = width, max(1, height - len(above) - len(below) - 1)
        body = self.view.lines(width, self._body)[: self._body]
        room = [Line("")] * max(0, height - len(above) - len(body) - len(below) - 1)
        lines = [*above, *body, *room, *below, self._help(width)]
        return [Line(clipped(line.text, width), line.style) for line in lines[:height]]

    def _bar(self, width: int) -> Line:
        first = self._views[0]
        names = [
            f"[{number} {tab.title}]" if tab is first else f" {number} {tab.title} " for number, tab in enumerate(self._tabs, 1)
        ]
        left, right = f"{TITLE}  {''.join(names)}", time.strftime("%H:%M:%S")
        return Line(f"{left}{right:>{max(0, width - len(left))}}" if len(left) + 10 < width else left, CHOSEN)

    def _below(self, width: int) -> list[Line]:
        """Return the lines between the view and the help: a dialog, a prompt, or what an action has said."""
        if self._dialog is not None:
            return _boxed(self._dialog, width)
        if self._editor is not None:
            error = [Line(f"{output.BAD} {self._editor.error}", BAD)] if self._editor.error else []
            text = self._editor.text
            return [*error, Line(f"{self._editor.label}: {text[-max(10, width - len(self._editor.label) - 4) :]}▏", BOLD)]
        if self._message:
            return [Line(self._message, WARN)]
        return self._said(width)

    def _said(self, width: int) -> list[Line]:
        doer = self._doer
        if doer.doing is not None:
            last = doer.said[-1].removeprefix("jobs: ") if doer.said else "…"
            return [Line(clipped(f"running {doer.doing.typed}: {in_one_line(last)}", width), DIM)]
        if self._last is None or self._last_seen:
            return []
        good = doer.code == 0
        mark, style = (output.GOOD, GOOD) if good else (output.BAD, BAD)
        said = [line.removeprefix("jobs: ") for line in doer.said if line and not line.startswith("jobs: waiting for")]
        said = said or ["done" if good else f"exit code {doer.code}"]
        shown = said[: MOST_SAID if len(said) <= MOST_SAID else MOST_SAID - 1]
        lines = [Line(f"{mark if not number else ' '} {line}", style) for number, line in enumerate(shown)]
        return (
            lines if len(shown) == len(said) else [*lines, Line(f"  and {len(said) - len(shown)} more lines: m shows all", DIM)]
        )

    def _help(self, width: int) -> Line:
        if self._dialog is not None:
            return Line(" y yes   n no (Esc)".ljust(width), CHOSEN)
        if self._editor is not None:
            return Line(" Enter accept   Esc leave it   Ctrl-U clear".ljust(width), CHOSEN)
        back = (("Esc", "back"),) if len(self._views) > 1 else ()
        right = "  ".join(f"{key} {word}" for key, word in (*back, *COMMON))
        left = ""
        for key, word in self.view.help():
            more = f"{left}{'  ' if left else ' '}{key} {word}"
            if cell_len(more) + len(right) + 3 > width:
                break
            left = more
        return Line(f"{left}{right:>{max(0, width - cell_len(left) - 1)}} ", CHOSEN)

    # -- keys ------------------------------------------------------------------------------------

    def _press(self, key: str) -> None:
        if key == END:
            self._over = True
        elif self._dialog is not None:
            self._decide(key)
        elif self._editor is not None:
            self._edit(self._editor, key)
        else:
            self._message = ""
            before = self.view
            if not self.view.press(key, self, self._body):
                self._anywhere(key)
            self._last_seen = self._last_seen or self.view is not before

    def _anywhere(self, key: str) -> None:
        """Do what a key means in every view."""
        if key in ("q", "Q"):
            self._quit()
        elif key.isdigit() and 0 < int(key) <= len(self._tabs):
            self._views = [self._tabs[int(key) - 1]]
        elif key in ("tab", "back tab"):
            at = self._tabs.index(self._views[0])
            self._views = [self._tabs[(at + (1 if key == "tab" else -1)) % len(self._tabs)]]
        elif key in ("escape", "left", "backspace"):
            if len(self._views) > 1:
                self._views.pop()
            elif key == "escape":
                self._last_seen = True
        elif key == "?":
            self.open(TextView("keys", (), text=explained(self.view, self._tabs)))
        elif key == "refresh":
            self._reader.refresh()
        elif key == "m" and self._last is not None:
            self.open(TextView(self._last.typed, (), text=self._doer.said))

    def _quit(self) -> None:
        doing = self._doer.doing
        if doing is None:
            self._over = True
            return

        def agree() -> None:
            self._over = True

        self._dialog = Dialog("Quit, and stop what is running?", [doing.typed, "What it has done so far stays done."], agree)

    def _decide(self, key: str) -> None:
        dialog = self._dialog
        assert dialog is not None
        if key in ("y", "Y"):
            self._dialog = None
            dialog.agree()
        elif key in ("n", "N", "escape", "q", "Q"):
            self._dialog = None
            dialog.refuse()

    def _edit(self, editor: Editor, key: str) -> None:
        if key == "escape":
            self._editor = None
        elif key == "enter":
            self._editor = None
            if error := editor.then(editor.text.strip()):
                self._editor = Editor(editor.label, editor.text, editor.then, error)
        elif key == "backspace":
            editor.text = editor.text[:-1]
        elif key == "clear":
            editor.text = ""
        elif len(key) == 1:
            editor.text += key

    # -- what views do ---------------------------------------------------------------------------

    def open(self, view: View) -> None:
        """Show a view above the present one."""
        self._views.append(view)

    def act(self, act: Act) -> None:
        """Carry out an action: ask first, unless its command asks by itself."""
        if self._doer.doing is not None:
            self.say(f"wait: {self._doer.doing.typed} is still running")
        elif act.question:
            self._dialog = Dialog(act.question, [act.about, act.typed], lambda: self._begin(act))
        else:
            self._begin(act)

    def _begin(self, act: Act) -> None:
        self._last_seen = True
        self._doer.do(act, max(40, self._width))

    def prompt(self, label: str, text: str, then: Prompt) -> None:
        """Let the user edit a line."""
        self._editor = Editor(label, text, then)

    def say(self, text: str) -> None:
        """Show a message until the next key."""
        self._message = text

    def refresh(self) -> None:
        """Read the view again at once."""
        self._reader.refresh()


def _boxed(dialog: Dialog, width: int) -> list[Line]:
    lines = [Line("─" * width, DIM)]
    for number, text in enumerate((dialog.question, *filter(None, dialog.lines))):
        wrapped = textwrap.wrap(in_one_line(text), max(20, width - 4), max_lines=3, placeholder="…")
        lines += [Line(f"  {part}" if number else part, "" if number else BOLD) for part in wrapped]
    return lines


def rendered(lines: Sequence[Line]) -> Text:
    """Return the lines as what rich draws."""
    text = Text(no_wrap=True, overflow="crop", end="")
    for number, line in enumerate(lines):
        text.append("\n" if number else "")
        text.append(line.text, line.style or None)
    return text
