"""`jobsctl new-plugin`: write an installable package of a plugin that works as it is, with its tests."""

from __future__ import annotations

import errno
import re
import shlex
import shutil
import tempfile
from pathlib import Path
from string import Template

import click

from ...backends.base import INTERFACE_VERSION
from .. import output
from ..common import fail
from ..exits import Exit
from ..types import FILE, Checked

TEMPLATES = Path(__file__).with_name("templates")

KINDS = {
    "backend": "A directory of files as a backend of jobs",
    "loader": "Imports the jobs of every module in a folder",
    "middleware": "Logs the runs of jobs that take long",
    "channel": "Appends the alerts of jobs to a file",
}
"""The kinds of plugins, and what each does as it is made."""

OURS = {
    "core", "command", "django", "fastapi", "flask", "opentelemetry", "postgres", "rabbitmq", "redis", "sentry", "web",
    "zeromq",
}  # fmt: skip
"""Names whose distribution, or whose module, is one of this project."""

TAKEN = {
    "backend": {"memory", "sqlite"},
    "loader": {"modules"},
    "middleware": set[str](),
    "channel": {"webhook", "slack", "dingtalk"},
}
"""Names that the core itself provides for a kind, and that remain its own."""

LONGEST = 40


def _name(value: str) -> str | None:
    """Return what is wrong with the name of a plugin; None if it can be part of a distribution, a module and a URL."""
    if value.startswith("jobs-"):
        return f"leave out the jobs- of {value[:80]!r}: the command adds it"
    if len(value) > LONGEST or not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", value):
        rule = f"lower-case letters, digits and single hyphens, a letter first, at most {LONGEST} characters"
        return f"expected {rule}, got {value[:80]!r}"
    if value in OURS:
        return f"jobs-{value} is a distribution of this project: choose another name"
    return None


@click.command("new-plugin")
@click.argument("name", type=Checked("name", _name))
@click.option("--kind", type=click.Choice([*KINDS]), required=True, help="What the plugin adds.")
@click.option("--directory", metavar="DIR", type=FILE, help="Where to write it (default: jobs-NAME, in this directory).")
def new_plugin_command(name: str, kind: str, directory: str | None) -> None:
    """Write the package jobs-NAME: a plugin that works as it is, with its tests.

    A backend comes with the whole contract as its test, and passes it. Nothing that exists is overwritten.
    """
    if name in TAKEN[kind]:
        fail(f"NAME: {name!r} is a {kind} of jobs itself: choose another name", Exit.USAGE)
    target = Path(f"jobs-{name}" if directory is None else directory)
    try:
        write(target, kind, name)
    except FileExistsError:
        fail(f"{target} already exists: remove it, or choose another place with --directory", Exit.USAGE)
    except (OSError, ValueError) as error:
        fail(f"{target} cannot be written: {getattr(error, 'strerror', None) or error}", Exit.USAGE)
    output.echo(f"Wrote {target}: a plugin that works as it is. Next:")
    for line in (f"cd {shlex.quote(str(target))}", "pip install -e '.[testing]'", "pytest", "jobsctl plugins"):
        output.echo(f"  {line}")


def write(target: Path, kind: str, name: str) -> None:
    """Write a package into the new directory `target`: all of it, or nothing. Raises OSError, FileExistsError if it exists."""
    if target.is_symlink() or target.exists():
        raise FileExistsError(errno.EEXIST, "exists", str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".jobs-new-", dir=target.parent))
    try:
        for path, text in files(kind, name).items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_text(text, encoding="utf-8")
        made.chmod(0o755)
        made.rename(target)  # fails if someone has put a file, or a directory that is not empty, there meanwhile
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def files(kind: str, name: str) -> dict[str, str]:
    """Return the texts of a package by path."""
    key = name.replace("-", "_")
    words = {
        "name": name,  # in distributions and URLs
        "key": key,  # in Python and in tables
        "module": f"jobs_{key}",
        "title": "".join(part.capitalize() for part in name.split("-")),
        "kind": kind,
        "what": KINDS[kind],
        "interface": str(INTERFACE_VERSION),
    }
    source = f"src/{words['module']}"
    found = {"pyproject.toml": TEMPLATES / "pyproject.toml.txt"}
    for path in sorted((TEMPLATES / kind).iterdir()):
        file = path.name.removesuffix(".txt")
        place = "" if file == "README.md" else "tests/" if file.startswith("test_") else f"{source}/"
        found[f"{place}{file}"] = path
    texts = {file: Template(path.read_text("utf-8")).substitute(words) for file, path in found.items()}
    return {**texts, f"{source}/py.typed": ""}
