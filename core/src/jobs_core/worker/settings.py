"""The settings of one worker's courier, and the calls that the courier makes to the process around the worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from ..backends.base import Backend
from ..events import JobTooFast
from .prefetch import LARGEST_BATCH, WEIGHTED_BATCH


class CourierSettings(Struct, frozen=True):
    """The settings of a courier, which do not change. Times are in seconds."""

    topics: Sequence[str] | Mapping[str, int]  # in strict order, or with weights
    lease: float
    stop_timeout: float
    timeout_grace: float = 10.0  # from the interruption of a run until the worker stops waiting for it
    keeps_house: bool = True  # maintain the backend, because there is no housekeeper
    drain: bool = False  # stop when there are no jobs left
    max_jobs: int = 0  # stop reserving after this number; 0: never
    logs_done: bool = False  # a log line for each job that succeeds
    starts_quiet: bool = False  # reserve nothing before `serve`
    limits_keys: frozenset[str] = frozenset()  # the topics with `max_per_key`
    cleans: Callable[[], None] | None = None  # starts to clean the payload store, because there is no housekeeper
    defines: Callable[[Backend], None] | None = None  # writes the definitions of limits, because no supervisor does

    @property
    def largest_batch(self) -> int:
        """Return the largest number of jobs to reserve at a time."""
        return WEIGHTED_BATCH if isinstance(self.topics, Mapping) else LARGEST_BATCH


class Listener:
    """The process around a worker. The courier's thread calls its methods, which do nothing unless overridden."""

    def opened(self) -> None:
        """Note that the backend is open: the worker serves, or stands by."""

    def due(self, why: str) -> None:
        """Provide a successor: this worker stops reserving jobs, at once or soon (`max_jobs`), and ends after its last one."""

    def too_fast(self, report: JobTooFast) -> None:
        """Handle the report of a job that succeeded sooner than it can have done its work."""

    def abandoned(self, replace: bool) -> None:
        """End the process: the worker no longer waits for jobs that still run. `replace` asks for a new worker."""
