"""The in-process backend: a real queue for tests and small programs, and the model that the contract compares with.

`memory://` is one store a process, `memory://name` another. Everything is encoded, leased and expired as with a
broker; only nothing outlives the process, and no other process sees it.
"""

from __future__ import annotations

from .backend import MemoryBackend, forget

__all__ = ["MemoryBackend", "forget"]
