"""The in-process backend: a real queue for tests and small programs, and the model with which the contract compares backends.

`memory://` is one store per process, and `memory://name` another. Jobs are encoded and leased and can expire as with a
broker, but no other process sees them, and they are lost when the process ends.
"""

from __future__ import annotations

from .backend import MemoryBackend, forget

__all__ = ["MemoryBackend", "forget"]
