"""Pages of the documentation that are followed from top to bottom, as a reader would: files written, commands typed."""

from __future__ import annotations

import ast
import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from jobs_core.testing.services import program
from jobs_core.testing.services.redis import RedisServer

from .terminal import Checkout, Command, Terminal, commands_of

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"(?:# |<\?php // )([\w./-]+\.\w+)\n")
EVENTUALLY = r"curl|^cat |^grep |^jobsctl (list|show|why|dead|status|flow|topics)\b"
"""Commands that a reader repeats until what the page shows has happened."""


class Shown(NamedTuple):
    """A file that a page shows; one without a name is a module that is run once."""

    name: str
    text: str


def files_and_commands(page: str) -> Iterator[Shown | Command]:
    """Yield the files that a page shows and the commands that it types, in order."""
    for language, block in BLOCK.findall(page):
        name = FILE.match(block)
        if language in ("console", "sh", "bash", "shell"):
            yield from commands_of(block)
        elif language == "py":
            ast.parse(block)  # of another system: `make coming-from` runs it
        elif language == "yaml":
            list(yaml.safe_load_all(block))
        elif name or language == "python":
            yield Shown(name[1] if name else "", block)


class Reader:
    """A reader of a page, in a terminal of a checkout."""

    def __init__(self, checkout: Checkout, terminal: Terminal) -> None:
        self._checkout = checkout
        self._terminal = terminal

    def follow(self, page: Path) -> None:
        """Write the files and type the commands of a page. If it has no commands, run its tests, or else its modules."""
        shown = list(files_and_commands(page.read_text(encoding="utf-8")))
        typed = any(isinstance(one, Command) for one in shown)
        tested = any(isinstance(one, Shown) and one.name.startswith("test_") for one in shown)
        if not any(isinstance(one, Shown) and one.name == "jobs.toml" for one in shown):
            self._write("jobs.toml", "")  # without one, the first enqueue of a process warns about where it keeps jobs
        for one in shown:
            if isinstance(one, Command):
                self._terminal.follow(one, eventually=EVENTUALLY)
            elif self._write(one.name or "block.py", one.text) and not typed and one.name.startswith("test_") is tested:
                self._run(one.name or "block.py")

    def _write(self, name: str, text: str) -> bool:
        here = next(line for line in self._terminal.run("pwd")[1] if line.startswith("/"))
        place = Path(here) / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(self._checkout.as_here(text), encoding="utf-8")
        return name.endswith(".py")

    def _run(self, name: str) -> None:
        module = name.removesuffix(".py")
        arguments = f"-m pytest -q {name}" if name.startswith("test_") else f"-W error -c 'import {module}'"
        self._terminal.follow(Command(f"{sys.executable} {arguments}", []))


def follow(page: Path, root: Path) -> None:
    """Follow a page in an empty directory, with the programs that it types and a Redis server if it names one."""
    text = page.read_text(encoding="utf-8")
    checkout = Checkout(root)
    # Other plugins of this environment take a second to load, and a reader does not have them.
    checkout.environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    checkout.environment["PYTEST_ADDOPTS"] = "-p jobs_core.testing.plugin -p no:cacheprovider"
    with contextlib.ExitStack() as stack:
        if "$ php " in text:
            program("php", "php-cli")
        if re.search(r"^(\$.*|backend = .*)redis://", text, re.MULTILINE):
            server = stack.enter_context(RedisServer(root / "redis"))
            checkout.replaced["6379"] = str(server.port)
        Reader(checkout, stack.enter_context(checkout.terminal(""))).follow(page)
