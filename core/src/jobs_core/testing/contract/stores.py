"""Empty the store at a given URL of the jobs of earlier cases."""

from __future__ import annotations

from pathlib import Path

from ...backends.base import BackendOptions, State
from ...backends.memory import forget
from ...ids import new_token
from ...plugins import Plugins
from ...urls import scheme
from .rig import T

MOST_WAKE_UPS = 1000
"""Most wake-ups that one case can leave behind."""


def fresh(url: str) -> str:
    """Empty and resume every topic that the contract uses; return the URL unchanged."""
    if scheme(url) == "memory":
        forget(url)
        return url
    factory = Plugins.discover().choose("jobs_queue_backends", scheme(url), "URL")
    backend = factory(url, BackendOptions(base_dir=Path.cwd()))
    backend.open(new_token())
    try:
        if "browse" in backend.features:
            topics = backend.topics()
            for topic in topics:
                backend.resume(topic)
                for state in (State.READY, State.SCHEDULED, State.DEAD):
                    backend.purge(topic, state)
            for _ in range(MOST_WAKE_UPS):  # use up wake-ups of deleted jobs, each of which may end one wait
                if not backend.wait([T, *topics], 0.01):
                    break
    finally:
        backend.close()
    return url
