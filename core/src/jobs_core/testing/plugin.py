"""Fixtures for applications' tests, available wherever jobs-core is installed.

With `jobs_queue`, enqueued jobs wait to be inspected, and run with `drain()`. With `jobs_inline`, they run at once. Both pass
arguments through the real encoder and the conversion to annotated types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..config import Config
    from .inline import InlineJobs, JobsQueue


@pytest.fixture
def jobs_config() -> Config | None:
    """Return the configuration of the fixtures below; override it if topics or signing keys matter."""
    return None


@pytest.fixture
def jobs_queue(jobs_config: Config | None) -> Iterator[JobsQueue]:
    """Provide an application on an empty memory backend: `assert_enqueued`, `drain`, `perform`, `travel`."""
    from .inline import JobsQueue, install

    queue = JobsQueue(jobs_config)
    undo = install(queue)
    yield queue
    undo()


@pytest.fixture
def jobs_inline(jobs_config: Config | None) -> Iterator[InlineJobs]:
    """Provide an application whose `enqueue` runs the job at once and raises the job's exception."""
    from .inline import InlineJobs, install

    inline = InlineJobs(jobs_config)
    undo = install(inline)
    yield inline
    undo()


@pytest.fixture
def assert_enqueued(jobs_queue: JobsQueue) -> Callable[..., Any]:
    """Provide `assert_enqueued(job, *args, **kwargs)`, which returns the message of a call that must be waiting."""
    return jobs_queue.assert_enqueued
