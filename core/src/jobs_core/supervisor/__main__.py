"""`python -m jobs_core.supervisor [--config FILE] [--ready-fd N] [--developing yes]`: the process that `jobsctl start` becomes.

Users do not type this command: `jobsctl start` first checks for the mistakes that a user may have made.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from .. import config_sources, escapes, logs, private
from ..config import Config
from ..config_sources import Effective
from ..errors import ConfigError, JobsError
from ..scoreboard import state
from ..urls import of_sqlite, redact
from . import search
from .log.collector import LogCollector
from .log.writer import LogWriter
from .master import Supervisor
from .pidfile import AlreadyRunning, PidFile
from .processes.child_setup import title
from .processes.children import Child
from .system.loop import Loop


def main(arguments: list[str]) -> int:
    """Run a supervisor until it stops; return the exit code."""
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    source = _Source(options.get("--config"), developing="--developing" in options)
    tell = _Ready(int(options.get("--ready-fd", -1)))
    try:
        effective = source.load()
        config = effective.config
        run_dir = private.directory_of_installation(config.base_dir / config.run_dir).resolve()
        private.directory_of_installation(run_dir / state.WORKERS)
        os.umask(0o077)
        pid_file = PidFile(run_dir)
        writer = LogWriter(config.logs, config.base_dir)
    except AlreadyRunning as error:
        tell(f"jobs: {error}")
        print(escapes.lines(f"jobs: {error}"), file=sys.stderr)
        return 0
    except (JobsError, OSError) as error:
        tell(str(error))
        print(escapes.lines(f"jobs: {error}"), file=sys.stderr)
        return 2
    _raise_descriptor_limit()
    title(f"{search.TITLE}{run_dir}")

    def collector_of(loop: Loop, job_of: Callable[[Child], dict[str, str]]) -> LogCollector:
        collector = LogCollector(loop, writer, config.logs, job_of)
        logs.to_function(config.logs.level, config.logs.format, collector.write, worker="supervisor")
        return collector

    supervisor = Supervisor(
        config,
        lambda wish: source.load_again(wish, run_dir),
        run_dir,
        pid_file,
        collector_of,
        config_file=lambda: source.file,
        backend=redact(config.backend or of_sqlite(run_dir / "jobs.db")),
        on_ready=tell,
        awaited=tell.awaited,
    )
    return supervisor.run()


class _Source:
    """The source of the configuration. It keeps names as given: each generation resolves symbolic links again."""

    def __init__(self, file: str | None, *, developing: bool = False) -> None:
        self._file = file
        self._developing = developing
        self._directory = config_sources.working_directory()
        self._here = os.path.realpath(self._directory)
        self._settings = os.environ.get("JOBS_SETTINGS", "")
        self.file = ""  # the configuration file that was read last
        self._base_dir: Path | None = None  # of the serving generation
        self._path_entry = sys.path[0]  # the current directory: `python -m` has put it there

    def load(self) -> Effective:
        """Read the configuration, and follow the working directory, in which children start, if its link has changed."""
        if self._settings:
            os.environ["JOBS_SETTINGS"] = self._settings
        effective = config_sources.load(self._file, cwd=None if self._settings else self._directory)
        here = os.path.realpath(self._directory)
        if here != self._here:
            if self._path_entry in sys.path:
                sys.path[sys.path.index(self._path_entry)] = here
            os.chdir(here)
            self._here = self._path_entry = here
        if effective.file:
            os.environ["JOBS_CONFIG"] = str(effective.file)  # the brokers of plugins read it, too
        self.file = str(effective.file or "")
        self._base_dir = effective.config.base_dir
        config = effective.config
        if self._developing and config.logs.done is None:  # a developer wants to see each finished job
            return replace(effective, config=replace(config, logs=replace(config.logs, done=True)))
        return effective

    def load_again(self, wish: dict[str, Any], run_dir: Path) -> Config:
        """Read the configuration for a reload, whose command may name another file.

        Raises ConfigError, also if the jobs would be in another queue.
        """
        before = self._file, self._directory, self._settings, self._base_dir, self.file
        if "config" in wish:
            self._file, self._settings = wish["config"] or None, wish["settings"] or self._settings
            if self._here == str(self._base_dir):  # the supervisor was started in that directory
                self._directory = Path(wish["directory"])
        try:
            config = self.load().config
            self._refuse_another_queue(config, before[3], run_dir)
        except (ConfigError, OSError) as error:
            self._file, self._directory, self._settings, self._base_dir, self.file = before
            raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from None
        return config

    def _refuse_another_queue(self, config: Config, base_dir: Path | None, run_dir: Path) -> None:
        url = config.backend or ""
        if config.backend is None:
            moved = (config.base_dir / config.run_dir).resolve() != run_dir
        else:
            moved = url.startswith("sqlite:///") and not url.startswith("sqlite:////") and config.base_dir != base_dir
        if moved:
            raise ConfigError(
                f"backend: the jobs are in a file inside the running release, and {config.base_dir} has another: waiting jobs "
                "would be left behind. Set run_dir and the file to paths outside the releases, and restart"
            )


class _Ready:
    """The report to the command that started this process in the background: success, or the reason of a failure. Sent once."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.awaited = descriptor >= 0
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)

    def __call__(self, error: str) -> None:
        if self._descriptor >= 0:
            os.write(self._descriptor, (error or "ready").encode()[:60_000])
            if not error:  # else it is closed when this process ends and unlocks the run directory
                os.close(self._descriptor)
            self._descriptor = -1


def _raise_descriptor_limit() -> None:
    """Raise the soft limit, often 1,024: each worker costs a few descriptors here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 65_536) if hard != resource.RLIM_INFINITY else 65_536
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
