"""The shell blocks of the documentation, typed into a shell as a reader would, in a separate checkout."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jobs_core.testing.services import free_port

from .project import LONGEST_RUN, Process, until

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/*/README.md"), *ROOT.glob("*/README.md")]
    if page.name != "CHANGELOG.md"
)
FOLLOWED = sorted(
    page
    for page in [ROOT / "docs" / "tutorial.md", *ROOT.glob("docs/how-to/*.md"), *ROOT.glob("docs/coming-from/*.md")]
    if page.exists()
)
"""Pages that are followed as a whole, see reader.py."""

PORTS = ("2525", "5000", "6379", "7788", "8000", "8077", "9000", "9100")
"""Ports in the pages, each replaced by a free one."""

KEEPS_RUNNING = {
    r"jobs(ctl)? start( --reload)?$": " ready: ",
    r"jobsctl worker$": " serves ",
    r"jobsctl web( -.*)?$": "the dashboard is at",
    r"python -m aiosmtpd": "Server is listening on",
    r"jobsctl broker( &)?$": "serves at",
    r"flask .*\brun\b": "Running on http",
    r"uvicorn ": "Uvicorn running on",
    r"python partner\.py": "answers at",
    r"manage\.py runserver": "development server at",
}
"""Commands that keep their terminal, and what each prints when it serves."""

SHIMS = {
    # Installing would change the environment of all tests: the named distributions have to be in this tree, or in the
    # development environment.
    "pip": f"""\
        #!{sys.executable}
        import pathlib, re, sys
        root = pathlib.Path({str(ROOT)!r})
        projects = [path.read_text() for path in (*root.glob("*/pyproject.toml"), *root.glob("*/*/pyproject.toml"))]
        ours = {{re.search(r'^name = "(.*)"', text, re.M)[1] for text in projects if "[project]" in text}}
        known = ours | set(re.sub(r"\\[.*?\\]", "", (root / "requirements-dev.txt").read_text()).split())
        command, *names = sys.argv[1:]
        assert command == "install" and names, sys.argv
        for name in names:
            if name.startswith("."):
                assert (pathlib.Path(name) / "pyproject.toml").exists(), f"{{name}} is no distribution"
            else:
                assert name.partition("[")[0] in known, f"{{name}} is unknown"
        """,
    # The demonstration runs no longer than it needs; the tests themselves are this test run, so only the existence of that
    # target is checked.
    "make": f"""\
        #!/bin/sh
        case "$1" in
            demo) exec {shutil.which("make")} -C {ROOT} demo SECONDS=0 VENV="$DEMO_VENV" ;;
            *) exec {shutil.which("make")} -n -C {ROOT} "$@" ;;
        esac
        """,
}


NO_CODES: Mapping[str, int] = {}


def bare(command: str) -> str:
    """Return a command without the comment behind it."""
    return command.partition("  #")[0].strip()


class Command(NamedTuple):
    text: str
    answer: list[str]
    """The lines that the page shows below the command; "…" stands for anything."""


class Block(NamedTuple):
    page: str
    number: int
    commands: list[Command]

    def __str__(self) -> str:
        return f"{self.page}-{self.number}"


def shell_blocks(pages: Sequence[Path] = tuple(page for page in PAGES if page not in FOLLOWED)) -> list[Block]:
    """Return every shell block of the documentation, except those of pages that are followed as a whole."""
    found = []
    for page in pages:
        texts = re.findall(r"^```(?:console|shell|bash|sh)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        name = str(page.relative_to(ROOT))
        found += [Block(name, number, commands_of(text)) for number, text in enumerate(texts, 1)]
    return found


def commands_of(text: str) -> list[Command]:
    """Return the commands of a shell block, each with the output that is shown below it."""
    commands: list[Command] = []
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            commands.append(Command(line[2:], []))
        else:
            assert commands, f"a shell block begins with a command, after `$ `: {line}"
            commands[-1].answer.append(line)
    return commands


class Checkout:
    """A copy of what a reader finds: the examples, and links to the distributions. Ports of the pages become free ones."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.replaced: dict[str, str] = {port: str(free_port()) for port in PORTS}
        ignored = shutil.ignore_patterns(".jobs", "*.db", "__pycache__")
        shutil.copytree(ROOT / "examples", root / "examples", ignore=ignored)
        for name in ("core", "plugins"):
            (root / name).symlink_to(ROOT / name)
        for file in root.glob("examples/*/jobs.toml"):
            file.write_text(self.as_here(file.read_text()))
        self.shims = root / "shims"
        self.shims.mkdir()
        for name, text in SHIMS.items():
            self.shim(name, text)
        venv = root / "demo_venv"  # for `make demo`: this environment stands for an existing one
        (venv / "bin").mkdir(parents=True)
        (venv / "ready").touch()
        (venv / "bin" / "jobsctl").symlink_to(Path(sysconfig.get_path("scripts")) / "jobsctl")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("JOBS_", "DJANGO_", "FLASK_"))}
        path = os.pathsep.join([str(self.shims), sysconfig.get_path("scripts"), kept["PATH"]])
        self.environment = {**kept, "PATH": path, "PYTHONUNBUFFERED": "1", "DEMO_VENV": str(venv)}

    def shim(self, name: str, text: str) -> None:
        """Put a program before all others on the path."""
        (self.shims / name).write_text(textwrap.dedent(text))
        (self.shims / name).chmod(0o755)

    def as_here(self, text: str) -> str:
        """Replace in a page's text what is different here."""
        for written, here in self.replaced.items():
            text = re.sub(rf"(?<![\w.]){re.escape(written)}\b", lambda _, here=here: here, text)
        return text

    @contextlib.contextmanager
    def terminal(self, directory: str) -> Iterator[Terminal]:
        made = Terminal(self, self.root / directory)
        try:
            yield made
            made.end()
        finally:
            made.close()


class Terminal:
    """A shell, line by line. Commands that keep running go on in the background until the end."""

    def __init__(self, checkout: Checkout, directory: Path) -> None:
        self._checkout = checkout
        self._shell = Process(["bash"], directory, checkout.environment, stdin=subprocess.PIPE)
        self._typed = 0
        self._daemons = False

    def run(self, command: str) -> tuple[int, list[str]]:
        """Type a command; return its exit code and output. A command that keeps running returns once it serves."""
        command = self._checkout.as_here(bare(command))
        if command.startswith("curl "):  # whose output may end without a newline: a log line must not come between
            command = f"output=$({command}); code=$?; printf '%s\\n' \"$output\"; (exit $code)"
        self._daemons = self._daemons or "--daemon" in command
        sign = next((said for pattern, said in KEEPS_RUNNING.items() if re.search(pattern, command)), None)
        said_before = sum(sign in line for line in self._shell.lines) if sign else 0
        background = "&" if sign and not command.endswith("&") else ""
        begin = len(self._shell.lines)
        self._typed += 1
        mark = f"<{self._typed}> "
        self._shell.type(f"{{ {command} {background}\n}} </dev/null; printf '\\n%s%d\\n' '{mark}' $?\n")
        code = int(self._shell.until_said(mark, patience=LONGEST_RUN).removeprefix(mark))
        if sign:
            self._shell.until_said(sign, said_before + 1)
        output = self._shell.lines[begin:]
        return code, output if sign else output[: output.index(f"{mark}{code}")]

    def follow(self, command: Command, *, code: int = 0, eventually: str = "^$") -> None:
        """Type a command of a page, and check that it does what the page shows. Requests are repeated until the answer is
        there, and so are commands that match `eventually`, whatever their exit code."""
        expected = [self._pattern(line) for line in command.answer]
        seen: list[str] = []

        def answered() -> bool:
            found, output = self.run(command.text)
            seen[:] = output
            if found != code and command.answer and re.search(eventually, command.text):
                return False
            assert found == code, f"{command.text}: exit code {found}\n{self._shell.output}"
            fits = all(any(re.search(pattern, line) for line in output) for pattern in expected)
            waits = "curl" in command.text or re.search(eventually, command.text)
            assert fits or waits, f"{command.text}: {command.answer} is not among {output}"
            return fits

        try:
            until(answered)
        except AssertionError as error:
            raise AssertionError(f"{command.text}: {error}; it shows {command.answer}, and last printed {seen}") from None

    def _pattern(self, line: str) -> str:
        return f"^{re.escape(self._checkout.as_here(line)).replace('…', '.*')}$"

    def end(self) -> None:
        """Close the terminal; every command in it ends."""
        if self._daemons:
            self.run("jobsctl exit")
        self._shell.type("kill $(jobs -p) 2>/dev/null\nwait\nexit 0\n")
        assert self._shell.wait() == 0

    def close(self) -> None:
        """End what is left: Django's reloader, for one, does not forward signals."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.close()


def follow(
    block: Block, checkout: Checkout, *, directory: str = "", before: Sequence[str] = (), codes: Mapping[str, int] = NO_CODES
) -> None:
    """Do what a block shows, after the commands of `before`; `codes` has the exit codes that are not 0."""
    with checkout.terminal(directory) as terminal:
        for line in before:
            terminal.follow(Command(line, []))
        for command in block.commands:
            terminal.follow(command, code=codes.get(bare(command.text), 0))
