"""The settings of one worker's courier, and the process around the worker as the courier sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from ..events import JobTooFast


class CourierSettings(Struct, frozen=True):
    """The settings that a courier is given once. Times are in seconds."""

    topics: Sequence[str] | Mapping[str, int]  # in strict order, or with weights
    lease: float
    stop_timeout: float
    timeout_grace: float = 10.0  # from the interruption of a run until the worker stops waiting for it
    keeps_house: bool = True  # maintain the backend, since no housekeeper does
    drain: bool = False  # stop when there are no jobs left
    max_jobs: int = 0  # stop reserving after so many; 0: never
    logs_done: bool = False  # a log line for each job that succeeds
    starts_quiet: bool = False  # reserve nothing before `serve`


class Listener:
    """The process around a worker. Its methods are called on the courier's thread; these do nothing."""

    def opened(self) -> None:
        """Note that the backend is open: the worker serves, or stands by."""

    def due(self, why: str) -> None:
        """Provide a successor: this worker takes no more jobs (soon, for max_jobs) and ends after its last one."""

    def too_fast(self, report: JobTooFast) -> None:
        """Pass on that a job succeeds sooner than it can have done its work."""

    def abandoned(self, replace: bool) -> None:
        """End the process: jobs still run whose end the worker no longer awaits. `replace` asks for a new worker."""
