"""Counters outlive their worker: they are added to `totals.json` before the worker's file is removed.

The order keeps counters from ever going back or counting twice: first the totals are written, with the file's name in
`folded`, then the file is removed. The name is kept for the next REMEMBERED files, because a reader may have read the file
before it reads the totals.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from ... import events
from ...scoreboard import state
from ...scoreboard.reader import JobFigures, WorkerFile, add_ops, total
from ...scoreboard.state import STACKS, TOTALS, Totals

REMEMBERED = 500
"""Files whose names are kept: more than can be removed while a reader reads all of them."""


class TotalsFile:
    """The totals and their file. Used by the housekeeper's main thread."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / TOTALS
        self._totals = state.read(self._path, Totals) or Totals(since=time.time())

    def figures(self, generation: int | None = None) -> list[JobFigures]:
        """Return the figures of all workers, gone and living; of the latter, only those before a generation, if it is given."""
        rows = list(self._totals.rows)
        for path in state.worker_files(self._path.parent):
            if path.name not in self._totals.folded:
                with contextlib.suppress(OSError, ValueError):
                    file = WorkerFile(path)
                    rows += file.figures() if generation is None or file.header().generation < generation else ()
                    file.close()
        return rows

    def add_worker(self, path: Path, released: int) -> None:
        """Add the counters of a worker whose jobs have been released, and remove its files."""
        totals = self._totals
        totals.released += released
        if path.name not in totals.folded:
            with contextlib.suppress(OSError, ValueError):
                file = WorkerFile(path)
                rows, ops = list(file.figures()), file.ops()
                file.close()
                totals.rows = list(total([*totals.rows, *rows]).values())
                for row in totals.rows:
                    row.examples, row.longest = {}, ()
                add_ops(totals.ops, ops)
                totals.folded = [*totals.folded, path.name][-REMEMBERED:]
        try:
            state.write(self._path, totals)
        except OSError as error:
            events.emit(events.RunDirTrouble(TOTALS, str(error)))
        path.unlink(missing_ok=True)
        path.with_name(path.name + STACKS).unlink(missing_ok=True)
