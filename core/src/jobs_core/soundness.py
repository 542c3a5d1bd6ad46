"""Check that a worker process can still work: a job may have closed its descriptors, or lowered its resource limits.

Such a worker can neither settle its jobs nor be told to stop. It would keep its reservations and wait forever for a backend
that seems to be unavailable. So all code that waits for a backend calls `require_soundness`, which ends such a process.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable

_LIMITS = {"RLIMIT_NOFILE": resource.RLIMIT_NOFILE, "RLIMIT_FSIZE": resource.RLIMIT_FSIZE}
_files: dict[int, tuple[int, int] | None] = {}
_limits: dict[str, float] = {}


class UnsoundProcess(BaseException):
    """Raised when this process itself is broken, so that it cannot reach a backend that works.

    No retry helps, so it is not an `Exception`: no `except Exception` must catch it.
    """


def watch(descriptors: Iterable[int]) -> None:
    """Record descriptors that this process needs, and its current limits, for later checks. A worker calls this once."""
    _files.update((descriptor, _identity(descriptor)) for descriptor in descriptors)
    _limits.update((name, _limit(number)) for name, number in _LIMITS.items())


def require_soundness() -> None:
    """Raise UnsoundProcess if a descriptor was closed or a limit lowered; costs a few system calls. Any thread may call it."""
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
    """Return whether `require_soundness` finds no fault."""
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
