"""Commands that run in the test's own process leave it unchanged for the tests that follow."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

from jobs_core import set_current_app
from jobs_core.app import current
from jobs_core.registry import default_registry


@contextlib.contextmanager
def as_it_was() -> Iterator[None]:
    """Begin without jobs. Restore environment, directory, import path, signal handlers and jobs; forget `tasks` and the app."""
    environment, directory, path = dict(os.environ), os.getcwd(), sys.path[:]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)}
    jobs = dict(default_registry._jobs)  # test modules define some when they are imported: no command may see them
    default_registry.clear()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(directory)
        sys.path[:] = path
        for number, handler in handlers.items():
            signal.signal(number, handler)
        sys.modules.pop("tasks", None)
        default_registry.clear()
        default_registry._jobs.update(jobs)
        if current._current is not None:
            current._current.close()
        set_current_app(None)
