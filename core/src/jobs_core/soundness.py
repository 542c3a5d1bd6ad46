"""Whether this process can still do what any worker has to: a job may have closed its descriptors, or lowered its limits.

Such a worker cannot settle what it ran, nor be told to stop. It would wait for a backend that was never away, with its jobs
in hand. So whatever waits for a backend asks `require_soundness`, which ends such a process instead.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable

_LIMITS = {"RLIMIT_NOFILE": resource.RLIMIT_NOFILE, "RLIMIT_FSIZE": resource.RLIMIT_FSIZE}
_files: dict[int, tuple[int, int] | None] = {}
_limits: dict[str, float] = {}


class UnsoundProcess(BaseException):
    """This process is of no use any more, and not for want of a backend. No retry helps, so no `except Exception` gets it."""


def watch(descriptors: Iterable[int]) -> None:
    """From now on this process needs these descriptors, and the limits that it has. Called once, by a worker."""
    _files.update((descriptor, _identity(descriptor)) for descriptor in descriptors)
    _limits.update((name, _limit(number)) for name, number in _LIMITS.items())


def require_soundness() -> None:
    """Raise UnsoundProcess for what is missing in a process that is watched. Costs a few system calls. Any thread."""
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
    """Whether `require_soundness` finds nothing missing."""
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
