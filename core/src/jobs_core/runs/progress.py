"""The progress of a run of a resumable job: the cursor that is stored with its reservation.

A cursor is a JSON document: `{"state": …, "loop": 1, "cursor": …}`. `state` is what the job last gave to `checkpoint`,
`loop` the number of loops over `steps` that are over, and `cursor` that of the last step that is done in the next loop.
Fields that do not apply are missing. The courier sends it at most once a second, and every end after which the job runs
again brings the last one.
"""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ..errors import CheckpointError, JobSuspended
from ..units import shown

if TYPE_CHECKING:
    from .run import Run

MAX_CURSOR: Final = 4096
"""Most bytes of a cursor as JSON."""

_PLAIN: Final = frozenset({int, str, bool, type(None)})


class _Document(Struct, omit_defaults=True):
    state: Raw | UnsetType = UNSET
    loop: int = 0
    cursor: Raw | UnsetType = UNSET


_decode = msgspec.json.Decoder(_Document).decode
_encode = msgspec.json.Encoder().encode


class Place(NamedTuple):
    """A place in a job from which it can continue. `state` and `cursor` are JSON; empty means that there is none."""

    state: bytes = b""
    loop: int = 0
    cursor: bytes = b""

    def document(self) -> bytes:
        """Return the cursor to store."""
        return _encode(
            _Document(Raw(self.state) if self.state else UNSET, self.loop, Raw(self.cursor) if self.cursor else UNSET)
        )


def place_of(document: bytes) -> Place:
    """Return the place that a stored cursor describes; raise ValueError if it is not one."""
    if not document:
        return Place()
    found = _decode(document)
    state, cursor = (b"" if raw is UNSET else bytes(raw) for raw in (found.state, found.cursor))
    return Place(state, found.loop, cursor)


class Progress:
    """The progress of one run. Only the run's own code changes it; the courier reads `place`."""

    __slots__ = ("_loop", "_loops", "_staged", "place", "start", "stepped", "steps", "suspended")

    def __init__(self, start: Place) -> None:
        self.start: Place = start
        self.place: Place = start  # replaced as a whole, because the courier reads it at any time
        self.stepped: float = 0.0  # monotonic: when the current step began; 0.0: with the run
        self.steps: int = 0  # in this run
        self.suspended: JobSuspended | None = None  # raised to end the run
        self._staged: bytes | None = None  # the state that a step in progress has saved
        self._loops = 0  # begun in this run
        self._loop: weakref.ref[Any] | None = None  # the loop that has begun last, while the job keeps it

    # -- for loops over `steps` ------------------------------------------------------------------

    def begin_loop(self) -> tuple[int, bytes | None]:
        """Return the number of a new loop, and the cursor from which it continues; None at its start."""
        if self.in_loop:
            raise CheckpointError("steps() was called inside a loop over steps(): a job has one such loop after the other")
        number, self._loops = self._loops, self._loops + 1
        if number > self.place.loop:  # the job has left the one before by `break`, perhaps with a state of the step it was in
            self.place = Place(self._taken_state(), number)
        return number, (self.place.cursor or None) if number == self.place.loop else None

    def enter(self, loop: object) -> None:
        self._loop = weakref.ref(loop)

    @property
    def in_loop(self) -> bool:
        """Return whether a loop is in progress."""
        return self._loop is not None and self._loop() is not None

    def leave(self, number: int) -> None:
        """Note that a loop has come to its end, so that it does not run again."""
        self._loop = None
        if number >= self.place.loop:
            self.place = Place(self._taken_state(), number + 1)

    def end_step(self, run: Run, number: int, cursor: bytes) -> None:
        """Note that a step is done, and with it the state that it has saved."""
        if run.followups:  # before the step counts as done, or the next run would skip it and never send them
            _refuse_followups(run)
        self.steps += 1
        self.stepped = time.monotonic()
        self.place = Place(self._taken_state(), number, cursor)

    def _taken_state(self) -> bytes:
        """Return the state to store with a place: the one that the last step has saved, or else the one that is stored."""
        staged, self._staged = self._staged, None
        return self.place.state if staged is None else staged

    # -- for `checkpoint` --------------------------------------------------------------------------

    def save(self, run: Run, state: object) -> None:
        """Store a state: at once, or, inside a loop, together with the cursor of the step in progress once that is done."""
        encoded = encoded_as_json(state, "checkpoint: the state")
        _require_size(encoded, self.place.cursor, "checkpoint: the state")
        if self.in_loop:
            self._staged = encoded
            return
        if run.followups:
            _refuse_followups(run)
        self.steps += 1
        self.stepped = time.monotonic()
        self.place = self.place._replace(state=encoded)
        self._staged = None  # of a step that the job has left by `break`: this state is newer
        if run.interrupted is not None and _out_of_reach(run):
            raise run.interrupted

    # -- for all -----------------------------------------------------------------------------------

    def between_steps(self, run: Run) -> None:
        """Raise what is to end the run between two steps: an interruption, or JobSuspended if its worker stops."""
        if run.interrupted is not None and _out_of_reach(run):
            raise run.interrupted
        if run.stop_flag is not None and run.stop_flag.stopping:
            error = JobSuspended("its worker stops: the job continues in another one")
            self.suspended = run.interrupted = error
            raise error

    @property
    def cursor(self) -> Any:
        """Return the state that was saved last, else the cursor of the last step that is done; None if there is neither."""
        place = self.place
        known = self._staged or place.state or place.cursor
        return msgspec.json.decode(known) if known else None


def cursor_to_store(run: Run) -> bytes | None:
    """Return the cursor of a run as the backend stores it; None if it has not changed in this run. Any thread may call it."""
    progress = run.progress
    if progress is None:
        return None
    place = progress.place
    return None if place is progress.start else stored_form(run, place)


def stored_form(run: Run, place: Place) -> bytes:
    """Return a place as the backend stores it, encrypted if the arguments of the job are."""
    document, pack = place.document(), run.policy.pack_cursor
    return document if pack is None else pack(run.delivery.id, document)


def encoded_as_json(value: object, what: str) -> bytes:
    """Return a value as JSON; raise CheckpointError for one that would come back from JSON as something else."""
    try:
        if type(value) not in _PLAIN:
            _require_json(value, what)
        return _encode(value)
    except (OverflowError, RecursionError, UnicodeEncodeError, msgspec.MsgspecError) as error:
        raise CheckpointError(f"{what} cannot be written as JSON: {error}") from None


def _require_json(value: object, what: str) -> None:
    """Raise CheckpointError unless a value consists of the types that JSON returns; a tuple, which becomes a list, may do."""
    kind = type(value)
    if kind in _PLAIN:
        return
    if kind is float:
        if value != value or value in (float("inf"), float("-inf")):
            raise CheckpointError(f"{what} contains {value}, which JSON cannot represent")
    elif kind in (list, tuple):
        for item in value:  # type: ignore[attr-defined]
            _require_json(item, what)
    elif kind is dict:
        for key, item in value.items():  # type: ignore[attr-defined]
            if type(key) is not str:
                raise CheckpointError(f"{what} contains the key {shown(key)}: the keys of a JSON object are strings")
            _require_json(item, what)
    else:
        raise CheckpointError(
            f"{what} contains {shown(value)} of type {kind.__qualname__}, which the next run would get as something else: "
            "give its id, or its text (str(...), .isoformat()), and convert it back"
        )


def _require_size(state: bytes, cursor: bytes, what: str) -> None:
    size = len(state) + len(cursor)
    if size > MAX_CURSOR:
        raise CheckpointError(
            f"{what} is too large: with the cursor {size:,} bytes as JSON, the limit is {MAX_CURSOR:,}. "
            "Store the data elsewhere, and only its key here"
        )


def require_size(progress: Progress, cursor: bytes) -> None:
    """Raise CheckpointError if the cursor of a step is too large, together with the state of the job."""
    _require_size(progress.place.state, cursor, "steps: the cursor")


def _refuse_followups(run: Run) -> NoReturn:
    raise CheckpointError(
        f"{run.job.name} called current_job().enqueue() before a checkpoint: the follow-up is sent when the job is done, and "
        "forgotten if the job continues from its cursor in another run. Call the other job's enqueue(), which sends it now, or "
        "enqueue follow-ups after the last step"
    )


def _out_of_reach(run: Run) -> bool:
    """Return whether this run is a plain function on a thread, which no interruption reaches."""
    return not run.job.is_async and threading.current_thread() is not threading.main_thread()
