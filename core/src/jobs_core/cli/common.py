"""The parts that every command needs: the configured application, and errors that end it with a sentence and an exit code."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

import click
import msgspec

from .. import config_sources, escapes, urls
from ..app import App, set_current_app
from ..backends.base import Backend, JobRecord
from ..config_rules import arguments
from ..config_sources import Effective
from ..errors import ArgumentError, BackendUnavailable, ConfigError, JobsError, LoadError, PluginError, UnknownJob
from ..loaders.base import add_to_path
from ..operating.ids import missing, whole_id
from . import output
from .exits import Exit
from .run_directory import RunDirectory
from .run_directory import find as find_place
from .types import TOPIC
from .waiting import waiting

T = TypeVar("T")


class Context:
    """The options before the command's name, and the application, which is created when a command first uses it."""

    def __init__(self, config_file: str | None = None) -> None:
        self.config_file = config_file
        self._effective: Effective | None = None
        self.broken: ConfigError | None = None  # why the configuration cannot be read
        self._app: App | None = None

    @property
    def effective(self) -> Effective:
        """Return the configuration with its sources."""
        if self._effective is None:
            try:
                effective = config_sources.load(self.config_file)
                config_sources.require_utf8(effective.config.base_dir, "the project's directory")
                self._effective = effective
            except ConfigError as error:
                self.broken = error
                raise
        return self._effective

    @functools.cached_property
    def place(self) -> RunDirectory:
        """Return the run directory of the supervisor that a command addresses; report a broken configuration first."""
        found = find_place(lambda: self.effective, self.config_file)
        if found.trouble:
            for line in found.news():
                output.echo(f"jobs: {line}", err=True)
        return found

    @property
    def preferences(self) -> list[str]:
        """Return [plugins] prefer, or nothing if the configuration cannot be read: plugins are listed even then."""
        try:
            return self.effective.config.prefer
        except ConfigError:
            return []

    @property
    def app(self) -> App:
        """Return the application; its modules are importable, but not yet imported."""
        if self._app is None:
            add_to_path(self.effective.config.base_dir)
            with waiting("the plugins to be imported"):
                self._app = App(self.effective.config)
            set_current_app(self._app)
        return self._app

    def close(self) -> None:
        """Disconnect, at the end of the command."""
        if self._app is not None:
            with contextlib.suppress(JobsError):
                self._app.close()

    def require_shared_queue(self) -> None:
        """Raise ConfigError if the command would act on an empty backend of its own, which ends with it."""
        if self.app.is_alone():
            scheme = urls.scheme(self.app.backend_url)
            raise ConfigError(
                f"backend: {scheme}:// lives inside one process, and this command is another: it would act on an empty "
                "backend, which ends with the command. Choose a backend that processes share (sqlite:///jobs.db needs no "
                "server); `jobsctl run JOB` runs a job here and now, with any backend"
            )

    def operate(self, action: Callable[[Backend], T], what: str = "") -> T:
        """Run an operator's call on the backend; report a long wait for `what`. Raises ConfigError for a queue of its own."""
        self.require_shared_queue()
        with self.asking(what):
            found = self.app.operate(lambda backend: _found(action, backend))
        if isinstance(found, _ENDS):
            raise found
        return found

    def asking(self, what: str = "") -> contextlib.AbstractContextManager[None]:
        """Report a long wait inside the block as a wait for `what`, by default for the backend's answer."""
        return waiting(what or f"{urls.redact(self.app.backend_url)} to answer")

    def whole_id(self, text: str) -> str:
        """Return the id of the job whose id begins with `text`."""
        return self.operate(lambda backend: whole_id(backend, text, self.app.run_dir))

    def find(self, job_id: str) -> JobRecord:
        """Return the job whose id is, or begins with, `job_id`; end the command if there is none."""
        job_id = self.whole_id(job_id)
        record = self.operate(lambda backend: backend.get(job_id))
        if record is None:
            fail(self.operate(lambda backend: missing(backend, job_id)))
        return record


_Ends: TypeAlias = click.exceptions.Exit | click.exceptions.Abort | click.ClickException
_ENDS: Final = (click.exceptions.Exit, click.exceptions.Abort, click.ClickException)


def _found(action: Callable[[Backend], T], backend: Backend) -> T | _Ends:
    """Call `action`; return what ends the command instead of raising it: a plugin whose backend it is would be blamed."""
    try:
        return action(backend)
    except _ENDS as end:
        return end


pass_context = click.make_pass_decorator(Context, ensure=True)


def fail(message: str, code: Exit = Exit.FAILED) -> NoReturn:
    """Print an error and end the command."""
    output.echo(f"jobs: {message}", err=True)
    raise click.exceptions.Exit(code)


def exit_code(error: JobsError) -> Exit:
    """Return the exit code for an error."""
    if isinstance(error, BackendUnavailable):
        return Exit.UNAVAILABLE
    if isinstance(error, (ConfigError, PluginError, LoadError, UnknownJob, ArgumentError)):
        return Exit.USAGE
    return Exit.FAILED


def confirm(question: str, yes: bool, option: str = "--yes") -> None:
    """Ask for confirmation before something is destroyed; without a terminal, require `--yes` or another `option`."""
    if yes:
        return
    agreed = output.asked(question)
    if agreed is None:
        if not sys.stdin.isatty():
            fail(f"{question} Pass {option} to skip this prompt", Exit.USAGE)
        agreed = click.confirm(escapes.lines(question))
    if not agreed:
        fail("nothing was done")


def literal(text: str) -> Any:
    """Parse an argument of the command line as JSON; if it is not JSON, return it as a string."""
    try:
        value = msgspec.json.decode(text.encode())
    except msgspec.DecodeError as error:
        if "out of range" in str(error):
            fail(f"{shortened(text)}: a number this large cannot be stored: quote it to pass it as a string", Exit.USAGE)
        return text
    except RecursionError:
        fail(f"{shortened(text)}: nested too deeply to be stored", Exit.USAGE)
    if reason := arguments(value):
        fail(f"{shortened(text)}: {reason}", Exit.USAGE)
    return value


def shortened(text: str, most: int = 60) -> str:
    """Return the first `most` characters of a text."""
    return text if len(text) <= most else f"{text[:most]}…"


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Skip the confirmation prompt.")
topic_argument = click.argument("topic", type=TOPIC)


def read_lines(file: str) -> Iterator[bytes]:
    """Yield the lines of a file, or of standard input for "-"."""
    if file == "-":
        yield from sys.stdin.buffer
        return
    try:
        with Path(file).open("rb") as lines:
            yield from lines
    except OSError as error:
        fail(f"{file}: {error.strerror}", Exit.USAGE)
