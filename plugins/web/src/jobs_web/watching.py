"""The users of the configuration, read again when its file changes: what was deleted there is refused at the next request."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from jobs_core import JobsError

from .settings import Settings

logger = logging.getLogger("jobs.web")


class Fixed:
    """Settings that do not change: those of an application that was configured in code."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def now(self) -> Settings:
        """Return the settings."""
        return self.settings


class Watched(Fixed):
    """Settings of a file. A look at the file costs a request one system call. Any thread may use it.

    A file that cannot be read, or is wrong, changes nothing: the log says so, once for each change.
    """

    def __init__(self, settings: Settings, file: Path, read: Callable[[], Settings]) -> None:
        super().__init__(settings)
        self._file = file
        self._read = read
        self._seen = self._look()

    def now(self) -> Settings:
        """Return the settings as the file has them now."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                self.settings = self._read()
            except (JobsError, OSError) as error:
                logger.error("%s has changed and cannot be used, so the users remain as they were: %s", self._file, error)
            else:
                logger.info("%s has changed: its users and tokens are in force", self._file)
        return self.settings

    def _look(self) -> tuple[int, ...]:
        try:
            found = self._file.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino
