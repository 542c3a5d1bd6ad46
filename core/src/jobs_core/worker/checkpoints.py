"""The cursors of running resumable jobs, on their way to the backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..backends.base import Checkpoint
from ..runs.progress import Place, stored_form
from ..runs.run import Run
from .wake_up import NEVER

CHECKPOINT_INTERVAL: Final = 1.0
"""Seconds between two calls that store cursors: after a crash, a job repeats the steps of this time."""


class Checkpoints:
    """The cursors of one worker's runs, which are stored in one call a second at most. Only the courier uses it."""

    def __init__(self) -> None:
        self.due = NEVER  # monotonic: when to look for new cursors; never while no resumable job runs
        self._runs: list[tuple[Run, Place]] = []  # with the place that is stored
        self._taken: list[tuple[Run, Place]] = []

    def add(self, run: Run, now: float) -> None:
        """Watch a run that is being handed to the executor."""
        if run.progress is not None:
            self._runs.append((run, run.progress.start))
            self.due = min(self.due, now + CHECKPOINT_INTERVAL)

    def take(self, now: float, reserved: Mapping[str, Run]) -> list[Checkpoint]:
        """Return the cursors that have changed; forget runs that have ended, whose settlements contain them, or are lost."""
        self._runs = [(run, place) for run, place in self._runs if not run.ended and reserved.get(run.delivery.id) is run]
        self.due = now + CHECKPOINT_INTERVAL if self._runs else NEVER
        found: list[Checkpoint] = []
        self._taken = []
        for run, stored in self._runs:
            place = run.progress.place if run.progress is not None else stored
            self._taken.append((run, place))
            if place is not stored:
                found.append(Checkpoint(run.delivery.id, run.delivery.token, stored_form(run, place)))
        return found

    def stored(self) -> None:
        """Note that the backend has stored what `take` returned."""
        self._runs = self._taken
