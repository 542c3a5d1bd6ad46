"""A wall clock that a test can set, for the processes that are started with its environment: see clock.c.

    clock = Clock(tmp_path)
    project.worker(**clock.environment)
    clock.move(3600)                 # an hour fast from now on; monotonic clocks are unchanged

libfaketime cannot be used: in programs that link jemalloc, such as Debian's redis-server, the two wait for each other.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

from jobs_core.testing.services import program


class Clock:
    """The wall clock of some processes; see the module. Without a C compiler the test is skipped, and fails in CI."""

    def __init__(self, directory: Path, seconds: int = 0) -> None:
        self._file = directory / "clock"
        self._file.write_bytes(bytes(8))
        library = directory / "clock.so"
        source = Path(__file__).with_name("clock.c")
        subprocess.run([program("cc", "gcc"), "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
        self.environment = {"LD_PRELOAD": str(library), "WRONG_CLOCK": str(self._file)}
        self.move(seconds)

    def move(self, seconds: int) -> None:
        """Set the clock this many seconds ahead of the real one, or behind it if negative."""
        with self._file.open("r+b") as file:  # the same file: it is mapped
            file.write(struct.pack("=q", seconds))
