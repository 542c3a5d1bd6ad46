"""Move lines from the children's pipes to the log: the only way into it."""

from __future__ import annotations

from collections.abc import Callable

from ...config import Logs
from ...logs import for_raw_line
from ..processes.children import Child, Children
from ..system.loop import Loop
from .writer import LogWriter


class LogCollector:
    """The collector of all processes' lines. Belongs to the supervisor's loop.

    It leaves lines in the children's pipes while standard error does not accept them.
    """

    def __init__(self, loop: Loop, writer: LogWriter, settings: Logs, job_of: Callable[[Child], dict[str, str]]) -> None:
        self.children: Children | None = None
        self._loop = loop
        self._writer = writer
        self._settings = settings
        self._job_of = job_of
        self._watched = self._held = False

    def collect(self, child: Child, last: bool) -> None:
        """Write a child's output; `last`: the child is dead."""
        output = child.output
        lines, raw = output.read_last() if last else (output.read_log(), output.read_raw())
        if raw:
            context = self._job_of(child)
            made = [
                for_raw_line(line, self._settings.format, worker=child.name, pid=child.pid, context=context) for line in raw
            ]
            lines += b"".join(made)
        if lines:
            self.write(lines)
        if (output.log_ended or output.raw_ended) and not self._held and self.children is not None:
            self.children.resume_reading(child)  # the pipes that have not ended

    def write(self, lines: bytes) -> None:
        """Write lines of any process."""
        self._writer.write(lines)
        self._watch()

    def tick(self) -> None:
        """Try again to write waiting lines, as a full disk may have room now; called every second."""
        if self._writer.waiting():
            self._writer.flush()

    def reopen(self) -> None:
        """Continue in a new file: the old one was moved away."""
        self._writer.reopen()

    def close(self) -> None:
        """Write waiting lines, for a second at most, and close the log."""
        self._writer.close()

    def _watch(self) -> None:
        """Watch standard error while it is slow, and stop reading from the children while it is too slow."""
        wants = self._writer.wants_write()
        if wants and not self._watched:
            self._loop.watch(self._writer.fileno(), self._on_writable, writing=True)
        elif self._watched and not wants:
            self._loop.unwatch(self._writer.fileno())
        self._watched = wants
        full = self._writer.full()
        if full != self._held and self.children is not None:
            self._held = full
            for child in self.children.readers():
                (self.children.pause_reading if full else self.children.resume_reading)(child)

    def _on_writable(self) -> None:
        self._writer.on_writable()
        self._watch()
