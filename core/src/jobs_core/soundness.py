"""Check that this process can still do a worker's work: a job may have closed its descriptors, or lowered its limits.

Such a worker can neither settle its jobs nor be told to stop. It would wait for a backend that was never away, with its
reservations. So all code that waits for a backend calls `require_soundness`, which ends such a process instead.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable

_LIMITS = {"RLIMIT_NOFILE": resource.RLIMIT_NOFILE, "RLIMIT_FSIZE": resource.RLIMIT_FSIZE}
_files: dict[int, tuple[int, int] | None] = {}
_limits: dict[str, float] = {}


class UnsoundProcess(BaseException):
    """Raised when this process is of no use any more, for another reason than its backend.

    No retry helps, so it is not an `Exception`, and no `except Exception` catches it.
    """


def watch(descriptors: Iterable[int]) -> None:
    """Watch these descriptors, and the present limits, from now on: this process needs them. Called once, by a worker."""
    _files.update((descriptor, _identity(descriptor)) for descriptor in descriptors)
    _limits.update((name, _limit(number)) for name, number in _LIMITS.items())


def require_soundness() -> None:
    """Raise UnsoundProcess if a watched process lacks something. Costs a few system calls. Any thread."""
    for descriptor, file in _files.items():
        if _identity(descriptor) != file:
            raise UnsoundProcess(f"descriptor {descriptor} of this worker was closed")
    for name, before in _limits.items():
        now = _limit(_LIMITS[name])
        if now < before:
            raise UnsoundProcess(f"{name} was lowered from {before:g} to {now:g}")
    if _limits:
        try:
            os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise UnsoundProcess(f"this process can open no file: {error.strerror}") from None


def is_sound() -> bool:
    """Return whether `require_soundness` finds nothing missing."""
    try:
        require_soundness()
    except UnsoundProcess:
        return False
    return True


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _limit(number: int) -> float:
    soft, _ = resource.getrlimit(number)
    return float("inf") if soft == resource.RLIM_INFINITY else soft
