"""Find the supervisor that a command addresses, even if its configuration is broken, missing, or names another directory.

In these cases, the command uses the last good configuration: the supervisor keeps the part that commands need in its run
directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from .. import config_sources
from ..config import Config
from ..config_sources import Effective
from ..errors import ConfigError
from ..scoreboard.state import STATE, SupervisorState, read
from ..supervisor import search
from ..supervisor.pidfile import running


class RunDirectory(Struct, frozen=True):
    """A run directory, with the error if the configuration is broken; its supervisor then continues with an older one."""

    run_dir: Path
    trouble: str = ""
    moved: bool = False  # the configuration is valid, but now names another run directory

    def news(self) -> list[str]:
        """Return the messages about the configuration, for a command to print."""
        if self.moved:
            return [self.trouble, f"the supervisor in {self.run_dir} keeps running there; a restart moves it"]
        return [
            *self.trouble.splitlines(),
            f"the configuration is broken; the supervisor in {self.run_dir} keeps running with the last good one. "
            "`jobsctl check` shows what to fix before a reload or restart",
        ]


def find(load: Callable[[], Effective], named: str | None) -> RunDirectory:
    """Return the run directory of the configuration; if that is broken, of the supervisor that was started with its file.

    `named` is the file named on the command line. Raises ConfigError if the configuration is broken and no supervisor was
    started with its file.
    """
    try:
        effective = load()
    except ConfigError as error:
        files = config_sources.candidates(named)
        for place in _running_with(files):
            return RunDirectory(place, str(error))
        running(_usual(files[-1]))  # raises OfAnotherUser if the directory belongs to another user, as the file then does
        raise
    run_dir = effective.config.base_dir / effective.config.run_dir
    if running(run_dir) is not None:
        return RunDirectory(run_dir, _gone(run_dir, effective))
    for place in _running_with(config_sources.candidates(named)):
        if effective.file is None:
            return RunDirectory(place, _gone(place, effective))
        return RunDirectory(place, f"{effective.file}: run_dir is now {run_dir}", moved=True)
    return RunDirectory(run_dir)


def _gone(run_dir: Path, effective: Effective) -> str:
    """Return the message if the configuration file with which the supervisor was started no longer exists, else ""."""
    it = read(run_dir / STATE, SupervisorState)
    if effective.file is None and it is not None and os.path.isabs(it.config_file) and not os.path.isfile(it.config_file):
        return f"{it.config_file}: no such file"
    return ""


def _running_with(files: list[Path]) -> Iterator[Path]:
    """Yield the run directories of supervisors that were started with one of these files, in the order of the files."""
    found: dict[Path, Path] = {}
    for run_dir in (*map(_usual, files), *search.run_dirs()):
        it = read(run_dir / STATE, SupervisorState)
        if it is not None and running(run_dir) == it.pid:
            for name in (it.config_file, f"{it.base_dir}/jobs.toml"):  # a framework's settings have no file
                found.setdefault(_real(Path(name)), run_dir)
    yield from (found[_real(file)] for file in files if _real(file) in found)


def _usual(file: Path) -> Path:
    return _real(file).parent / Config().run_dir


def _real(file: Path) -> Path:
    """Resolve the file's directory; the file itself may be missing, or be a link."""
    return Path(os.path.realpath(file.parent)) / file.name
