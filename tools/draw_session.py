"""Draw docs/pictures/session.svg, half a minute in a terminal, from session.json beside it; a test compares the two.

`python tools/draw_session.py` draws. With `record`, it first types the commands below into a shell, in a project like the
README's, and keeps what the terminal shows, with its times.
"""

from __future__ import annotations

import json
import os
import pty
import select
import struct
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import pyte

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
DATA = PICTURES / "session.json"
WIDTH, HEIGHT = 96, 24
CELL, LINE, MARGIN = 8.43, 18, 16
"""The size of a character and the margin around all of them, in pixels, at a font size of 14."""

TYPING = 0.035
"""Seconds for each character that is typed."""

MERGED = 0.09
"""Seconds within which changes are drawn as one: typed text appears two characters at a time."""

PLACE = "/srv/shop"
"""The directory that the picture shows; the recording is made in a temporary one."""

TASKS = """\
import time
from jobs_core import job

@job(topic="email", retries=5, timeout=30)
def send_email(to: str) -> None:
    time.sleep(1)
"""
SHOP = """\
from tasks import send_email

for number in range(80):
    send_email.enqueue(f"customer{number}@example.com")
print("enqueued 80 jobs")
"""
CONFIGURATION = """\
modules = ["tasks"]
[pools.default]
topics = ["email"]
workers = 4
"""
PROMPT = "\x1b[1;32m$\x1b[0m "


# -- recording -------------------------------------------------------------------------------------


class Terminal:
    """A shell in a terminal of its own, and what it has shown so far."""

    def __init__(self, directory: Path) -> None:
        self.events: list[tuple[float, str]] = []
        self._directory = directory
        kept = {"HOME": str(directory), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "LANG": "C.UTF-8"}
        environment = {**kept, "TERM": "xterm-256color", "PS1": PROMPT, "COLUMNS": str(WIDTH), "LINES": str(HEIGHT)}
        child, self._terminal = pty.fork()
        if child == 0:
            os.chdir(directory)
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"], environment)
        ioctl(self._terminal, TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        self._child = child
        self._began = time.monotonic()

    def look(self, seconds: float, done: Callable[[], bool] = lambda: False) -> None:
        """Read what the terminal shows, for a while or until something is done."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not done():
            if select.select([self._terminal], [], [], min(left, 0.02))[0]:
                text = os.read(self._terminal, 65536).decode(errors="replace")
                shown = text.replace(str(self._directory), PLACE)
                self.events.append((time.monotonic() - self._began, shown))

    def type(self, command: str, after: float) -> None:
        """Type a command, wait until the prompt is back, and leave time to read."""
        for character in command:
            os.write(self._terminal, character.encode())
            self.look(TYPING)
        self.look(0.25)
        before = len(self.events)
        os.write(self._terminal, b"\n")
        self.look(60, lambda: PROMPT in "".join(text for _, text in self.events[before:]))
        self.look(after)

    def close(self) -> None:
        os.write(self._terminal, b"exit\n")
        os.waitpid(self._child, 0)
        os.close(self._terminal)


def record() -> None:
    """Run the session, and keep it."""
    with tempfile.TemporaryDirectory(prefix="jobs-session-") as name:
        directory = Path(name)
        for file, text in (("tasks.py", TASKS), ("shop.py", SHOP), ("jobs.toml", CONFIGURATION)):
            (directory / file).write_text(text)
        terminal = Terminal(directory)
        terminal.look(0.6)
        terminal.type("cat tasks.py", 1.6)
        terminal.type("jobsctl start --daemon", 0.8)
        terminal.type("python shop.py", 0.8)
        terminal.type(f"kill -9 {_busy(directory)}     # a worker, in the middle of a job", 0.8)
        terminal.type("jobsctl status", 4.0)
        terminal.type("clear; jobsctl topics", 1.5)
        terminal.type("jobsctl stop     # finishes running jobs, releases the rest", 1.5)
        terminal.type("jobsctl list email --limit 3", 3.0)
        terminal.close()
    events = [[round(at, 2), text] for at, text in terminal.events]
    DATA.write_text(json.dumps({"width": WIDTH, "height": HEIGHT, "events": events}, indent=0) + "\n", encoding="utf-8")


def _busy(directory: Path) -> int:
    """Return the process of a worker; all of them run jobs."""
    command = [sys.executable, "-m", "jobs_core", "status", "--json"]
    said = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True).stdout
    return next(int(worker["pid"]) for worker in json.loads(said)["workers"])


# -- drawing ---------------------------------------------------------------------------------------


class Run(NamedTuple):
    """Characters beside each other that look the same."""

    column: int
    text: str
    colour: str
    bold: bool


Row = tuple[Run, ...]

COLOURS = {
    "default": "#d8dee4", "black": "#57606a", "red": "#ff7b72", "green": "#7ee787", "brown": "#e3b341", "blue": "#79c0ff",
    "magenta": "#d2a8ff", "cyan": "#76e3ea", "white": "#ffffff",
}  # fmt: skip
"""Names of pyte, on a dark terminal."""


def rows(screen: Any) -> list[Row]:
    """Return what a screen shows, without empty space."""
    found = []
    for number in range(screen.lines):
        line = screen.buffer[number]
        runs: list[Run] = []
        for column in range(screen.columns):
            cell = line[column]
            if cell.data == " ":
                continue
            colour = COLOURS.get(cell.fg.removeprefix("bright"), f"#{cell.fg}" if len(cell.fg) == 6 else COLOURS["default"])
            last = runs[-1] if runs else None
            if last and (last.colour, last.bold) == (colour, cell.bold) and column - last.column - len(last.text) <= 1:
                gap = " " * (column - last.column - len(last.text))
                runs[-1] = last._replace(text=last.text + gap + cell.data)
            else:
                runs.append(Run(column, cell.data, colour, cell.bold))
        found.append(tuple(runs))
    return found


def frames(recording: dict[str, Any]) -> Iterator[tuple[float, list[Row]]]:
    """Yield what the terminal shows, each time that it has changed."""
    screen = pyte.Screen(recording["width"], recording["height"])
    stream = pyte.Stream(screen)
    shown: list[Row] = []
    due = 0.0
    events = [*recording["events"], [recording["events"][-1][0] + MERGED, ""]]
    for at, text in events:
        if at >= due:
            now = rows(screen)
            if now != shown:
                yield due, now
                shown = now
            due = at + MERGED
        stream.feed(text)


def spans(recording: dict[str, Any]) -> tuple[dict[tuple[int, Row], list[tuple[float, float]]], float]:
    """Return when each line is on the screen, and how long the session takes."""
    found: dict[tuple[int, Row], list[tuple[float, float]]] = defaultdict(list)
    since: dict[int, tuple[float, Row]] = {}
    end = recording["events"][-1][0] + 2.0
    for at, shown in frames(recording):
        for number, row in enumerate(shown):
            before = since.get(number)
            if before is None or before[1] != row:
                if before is not None and before[1]:
                    found[number, before[1]].append((before[0], at))
                since[number] = (at, row)
    for number, (at, row) in since.items():
        if row:
            found[number, row].append((at, end))
    return found, end


def draw(recording: dict[str, Any] | None = None) -> str:
    """Return the session as an SVG that plays by itself, again and again; without motion, it shows the last frame."""
    recording = recording or json.loads(DATA.read_text(encoding="utf-8"))
    found, end = spans(recording)
    rules, lines = [], []
    for number, ((row, runs), times) in enumerate(sorted(found.items(), key=lambda entry: (entry[1][0], entry[0][0]))):
        rules.append(f"#l{number}{{animation-name:k{number}}}@keyframes k{number}{{{_keyframes(times, end)}}}")
        last = ' class="last"' if times[-1][1] == end else ""
        lines.append(f'<g id="l{number}"{last}>{_text(row, runs)}</g>')
    width, height = round(recording["width"] * CELL + 2 * MARGIN), recording["height"] * LINE + 2 * MARGIN
    style = [
        "text{font:14px ui-monospace,Menlo,Consolas,monospace;white-space:pre}",
        f"g{{visibility:hidden;animation:{end:.2f}s step-end infinite}}",
        "@media (prefers-reduced-motion){g{animation:none!important}.last{visibility:visible}}",
        *rules,
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
            "<title>jobs in a terminal</title>",
            "<desc>Workers start, eighty jobs are enqueued, and a worker is killed in the middle of one. Another worker takes "
            "its place, and after a stop the jobs that had not run are still there.</desc>",
            f"<style>\n{chr(10).join(style)}\n</style>",
            f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>',
            *lines,
            "</svg>\n",
        ]
    )


def _keyframes(times: Sequence[tuple[float, float]], end: float) -> str:
    steps = ["0%{visibility:hidden}"] if times[0][0] > 0 else []
    for begin, until in times:
        steps.append(f"{100 * begin / end:.2f}%{{visibility:visible}}")
        steps += [f"{100 * until / end:.2f}%{{visibility:hidden}}"] if until < end else ["100%{visibility:visible}"]
    return "".join(steps)


def _text(row: int, runs: Row) -> str:
    y = MARGIN + row * LINE + 13
    return "".join(
        f'<text x="{MARGIN + run.column * CELL:.1f}" y="{y}" fill="{run.colour}" textLength="{len(run.text) * CELL:.1f}"'
        + (' font-weight="bold">' if run.bold else ">")
        + f"{escape(run.text)}</text>"
        for run in runs
    )


DRAWINGS = {"session": draw}


def main(arguments: Sequence[str]) -> None:
    if arguments == ["record"]:
        record()
    (PICTURES / "session.svg").write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
