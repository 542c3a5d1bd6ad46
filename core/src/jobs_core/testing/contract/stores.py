"""An empty store at a URL that a person gives: emptied of what an earlier case left."""

from __future__ import annotations

from pathlib import Path

from ...backends.base import BackendOptions, State
from ...backends.memory import forget
from ...plugins import Plugins
from ...urls import scheme


def fresh(url: str) -> str:
    """The same URL, with every topic of the contract empty and resumed."""
    if scheme(url) == "memory":
        forget(url)
        return url
    factory = Plugins.discover().choose("jobs_queue_backends", scheme(url), "URL")
    backend = factory(url, BackendOptions(base_dir=Path.cwd()))
    backend.open(None)
    try:
        if "browse" in backend.features:
            for topic in backend.topics():
                backend.resume(topic)
                for state in (State.READY, State.SCHEDULED, State.DEAD):
                    backend.purge(topic, state)
    finally:
        backend.close()
    return url
