"""The in-process backend: a real queue for tests and small programs, and the model with which the contract compares backends.

`memory://` is one store per process, `memory://name` another. Jobs are encoded, leased and expire as with a broker; but
nothing outlives the process, and no other process sees it.
"""

from __future__ import annotations

from .backend import MemoryBackend, forget

__all__ = ["MemoryBackend", "forget"]
