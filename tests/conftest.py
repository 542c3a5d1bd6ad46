"""Fixtures for all tests: a project in its own directory, and applications on memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs_core import App, set_current_app
from jobs_core.backends.memory import forget
from jobs_core.config import Config
from jobs_core.ids import new_token
from jobs_core.plugins import Plugins
from jobs_core.registry import Registry

from .support.plugins import discover, install  # noqa: F401  # fixtures
from .support.project import Project

pytest_plugins = ["pytester"]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A directory with jobs.toml and a module of jobs that keep a ledger; its processes end with the test."""
    made = Project(tmp_path / "project")
    yield made
    made.close()


@pytest.fixture
def registry() -> Registry:
    """An empty registry: a test does not see the jobs of another."""
    return Registry()


@pytest.fixture
def app(registry: Registry) -> Iterator[App]:
    """An application on an empty memory backend, with no plugins but the core's own; it is the current one."""
    url = f"memory://{new_token()}"
    made = App(Config(backend=url), plugins=Plugins(), registry=registry)
    set_current_app(made)
    yield made
    set_current_app(None)
    made.close()
    forget(url)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo what a test changes in the root logger."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
