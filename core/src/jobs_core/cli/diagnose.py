"""`jobsctl diagnose`: collect what a bug report needs in one archive, without secrets.

Most parts are the output of other commands, each in a process of its own and with a time limit: if a backend hangs, or a plugin
ends its process, only the parts that use it are missing.
"""

from __future__ import annotations

import io
import os
import platform
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import click
import msgspec

from .. import config_types
from ..errors import JobsError
from ..operating.formatting import count
from ..scoreboard.state import STATE, SupervisorState, read
from ..supervisor.housekeeper.sender import hide, secrets
from ..urls import cover
from ..version import __version__
from . import masking, output
from .common import Context, fail, pass_context
from .exits import Exit
from .masking import mask
from .types import FILE
from .waiting import waiting

PATIENCE: Final = 45.0
"""Seconds for each command; `check` gives the import of an application 30 s."""

LINES: Final = 2000
"""Last lines of the log that the archive contains."""

LONGEST_TAIL: Final = 2_000_000
"""Bytes at the end of the log that are read for them."""

SHORTEST: Final = 6
"""Shortest secret that is replaced in all files; a shorter one would match half of the text."""

SHORTEST_VARIABLE: Final = 8
"""Shortest value of a variable with a secret name that is replaced: `TOKEN=simple` may be a word."""

COMMANDS: Final = {  # file: the command, and what it shows
    "configuration.txt": (["check", "--show"], "every effective setting and its source, secrets hidden"),
    "check.txt": (["check"], "problems and advice"),
    "plugins.json": (["plugins", "--json"], "plugins, and what they provide"),
    "status.json": (["status", "--json", "--all"], "supervisor, workers, running jobs, recent crashes"),
    "topics.json": (["topics", "--json"], "jobs of each topic by state"),
    "limits.json": (["limits", "--json"], "limits and their use"),
    "schedule.txt": (["schedule"], "the schedule"),
}

OURS: Final = ("versions.txt", "configuration.txt", "plugins.json")
"""Files without a word of a job. There, a name such as `pypi-attestations` is that of a package, and no token."""

HEAD: Final = """\
A diagnosis of jobs {version}, made {at}.

It contains names (of topics, jobs, pools, machines, users and paths), errors of recent crashes, and log lines, which hold
whatever your jobs print. It contains no arguments, results or messages of jobs, and no secrets of the configuration. In log
lines, what looks like a password, a token or a private key is replaced by "…", but no program recognises all secrets.
Look through it before you send it.

"""


@click.command("diagnose")
@click.option(
    "--output", "-o", "file", type=FILE, help="The archive to write (default: jobs-diagnosis-TIME.tar.gz in this directory)."
)
@pass_context
def diagnose_command(context: Context, file: str | None) -> None:
    """Write one archive for a bug report, and list what is in it.

    It works even if the supervisor is not running, the backend does not answer, or the configuration is invalid. Secrets of
    the configuration and of the environment are replaced, even in log lines, and so is what looks like a password, a token or a
    private key. Only you can read the file, and no existing file is overwritten.
    """
    at = time.strftime("%Y%m%d-%H%M%S")
    path = Path(file or f"jobs-diagnosis-{at}.tar.gz")
    descriptor = _create(path)
    known = _secrets(context)
    parts: dict[str, tuple[str, str]] = {}
    try:
        for name, text, about in _parts(context):
            text = hide(cover(text), known)
            parts[name] = text if name in OURS else mask(text), about
            output.echo(f"{name:<20}{about}")
        listing = "".join(f"{name:<20}{about}\n" for name, (_, about) in parts.items())
        read_me = HEAD.format(version=__version__, at=at) + listing
        with os.fdopen(descriptor, "wb") as target, tarfile.open(fileobj=target, mode="w:gz") as archive:
            for name, text in {"README.txt": read_me, **{name: text for name, (text, _) in parts.items()}}.items():
                _add(archive, f"jobs-diagnosis-{at}/{name}", text)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    output.echo(f"\nWrote {path} ({count(path.stat().st_size, 'byte')}). Look through it before you send it.")


def _create(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        fail(f"{path} already exists: name another file with --output", Exit.USAGE)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        fail(f"{path} cannot be written: {why}: name another file with --output", Exit.USAGE)


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode(errors="backslashreplace")
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
    archive.addfile(info, io.BytesIO(data))


def _parts(context: Context) -> Iterator[tuple[str, str, str]]:
    """Yield the name of each file, its text, and what it is."""
    yield "versions.txt", _versions(), "Python, system, installed distributions, names of JOBS_ variables"
    options = [] if context.config_file is None else ["--config", context.config_file]
    for name, (command, about) in COMMANDS.items():
        with waiting(f"`jobsctl {' '.join(command)}`"):
            text = said([*options, *command])
        yield name, text, about
    yield "log.txt", _log(context), f"the last {LINES:,} lines of the supervisor's log file"


def said(arguments: list[str]) -> str:
    """Return the output of a command of ours, with its exit code if that is not 0."""
    command = [sys.executable, "-m", "jobs_core", *arguments]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired as error:
        told = (error.stdout or b"").decode(errors="replace")
        return f"{told}\n(stopped after {PATIENCE:.0f} s, because the command had not ended)\n"
    except OSError as error:
        return f"(could not be run: {error})\n"
    text = done.stdout.decode(errors="replace")
    return text if done.returncode == 0 else f"{text}\n(exit code {done.returncode})\n"


def _versions() -> str:
    """Return the versions of everything that may matter, and which variables are set, without their values."""
    distributions = sorted({f"{each.name} {each.version}" for each in metadata.distributions() if each.name}, key=str.lower)
    lines = [
        f"jobs-core {__version__}",
        f"Python {sys.version}",
        f"executable {sys.executable}",
        f"system {platform.platform()}",
        f"processors {os.cpu_count()}",
        f"user id {os.getuid()}",
        f"directory {os.getcwd()}",
        "",
        "JOBS_ variables that are set: "
        + (", ".join(sorted(name for name in os.environ if name.startswith("JOBS_"))) or "none"),
        "",
        *distributions,
    ]
    return "\n".join(lines) + "\n"


def _log(context: Context) -> str:
    """Return the end of the supervisor's log file, or why there is none."""
    try:
        place = context.place.run_dir
        state = read(place / STATE, SupervisorState)
    except JobsError as error:
        return f"(the log is missing, because the run directory is unknown: {error})\n"
    if state is None or not state.log:
        return "(the log goes to standard error: add the end of it yourself, for example from `journalctl -u UNIT`)\n"
    try:
        with open(state.log, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LONGEST_TAIL))
            lines = file.read(LONGEST_TAIL).decode(errors="replace").splitlines(keepends=True)
    except OSError as error:
        return f"({state.log} cannot be read: {error.strerror})\n"
    return "".join(lines[-LINES:])


def _secrets(context: Context) -> list[str]:
    """Return every secret string of the configuration and of the environment, the longest first."""
    found = {secret for name, value in os.environ.items() for secret in _of_variable(name, value)}
    try:
        config = context.effective.config
    except JobsError:  # it cannot be read: no part shows its values
        return _long(found)
    for path, value in _values(msgspec.to_builtins(config, enc_hook=str), ""):
        if path.endswith("_file") and path.startswith(("alerts.channels.", "webhooks.")):
            value = _content(value)
        if config_types.secret(path):
            found.update(_of_url(value) if "://" in value and not path.startswith("alerts.") else secrets({"value": value}))
        if path in ("signing_keys", "encryption_keys"):
            found.add(value.rpartition(":")[2])
    return _long(found)


def _long(found: Iterable[str]) -> list[str]:
    return sorted((text for text in found if len(text) >= SHORTEST), key=len, reverse=True)


def _of_variable(name: str, value: str) -> Iterator[str]:
    """Yield the secrets in a variable of the environment."""
    if "://" in value:
        yield from _of_url(value)
    elif masking.names_secret(name) and len(value) >= SHORTEST_VARIABLE:
        yield value


def _content(path: str) -> str:
    """Return the secret in a file that the configuration names; nothing if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError, ValueError):
        return ""


def _of_url(url: str) -> Iterator[str]:
    """Yield the secrets of a URL: its password, also as it is used, and the values of its parameters."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return
    if parts.password:
        yield parts.password
        yield unquote(parts.password)
    yield from (value for _, value in parse_qsl(parts.query))


def _values(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield every string with its dotted key."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _values(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _values(inner, path)
    elif isinstance(value, str):
        yield path, value
