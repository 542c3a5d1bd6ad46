"""A plugin uses published parts of the core only, so that the rest of the core may change."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

import jobs_core
from jobs_core import backend_kit

ROOT = Path(__file__).parents[2]
PUBLISHED = {
    "jobs_core",
    "jobs_core.backend_kit",
    "jobs_core.backends.base",
    "jobs_core.backends.documents",
    "jobs_core.backends.flow_plan",
    "jobs_core.backends.flows",
    "jobs_core.backends.letters",
    "jobs_core.backends.limits",
    "jobs_core.backends.notes",
    "jobs_core.backends.statistics",
    "jobs_core.backends.outbox",
    "jobs_core.backends.transactions",
    "jobs_core.errors",
    "jobs_core.loaders.base",
}
ENGINE = "jobs_core.backends.sqlite.engine"
"""Published for one reader: the ZeroMQ broker is a front of the core's SQLite queue."""

DASHBOARD = {
    "jobs_core.amending",
    "jobs_core.config_rules",
    "jobs_core.config_sources",
    "jobs_core.dead_actions",
    "jobs_core.escapes",
    "jobs_core.ids",
    "jobs_core.job",
    "jobs_core.limiting",
    "jobs_core.machines",
    "jobs_core.operating",
    "jobs_core.options",
    "jobs_core.schedule",
    "jobs_core.schedule.stored",
    "jobs_core.statistics",
    "jobs_core.topics",
    "jobs_core.units",
    "jobs_core.unix_sockets",
    "jobs_core.worker.main",
    *(f"jobs_core.operating.{path.stem}" for path in (ROOT / "core/src/jobs_core/operating").glob("[a-z]*.py")),
}
"""Published for one reader: the dashboard says and does what the commands of `jobsctl` do."""

SOURCES = sorted(
    path
    for directory in ("plugins", "examples")
    for path in (ROOT / directory).rglob("*.py")
    if not {"tests", ".venv", "build"} & set(path.relative_to(ROOT).parts)
)
PLUGINS = sorted({path.relative_to(ROOT).parts[1] for path in SOURCES})


def used(source: str) -> Iterator[tuple[str, str]]:
    """Yield each module of the core that a file imports anywhere, type checking included, with the name it takes from there."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.partition(".")[0] == "jobs_core")
        elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").partition(".")[0] == "jobs_core":
            for alias in node.names:
                yield _taken(str(node.module), alias.name)


def _taken(module: str, name: str) -> tuple[str, str]:
    """Return what `from module import name` gives: a listed name, as `jobs_core.job`, comes before a module of that name."""
    if name in getattr(importlib.import_module(module), "__all__", ()):
        return module, name
    try:
        is_module = importlib.util.find_spec(f"{module}.{name}") is not None
    except ModuleNotFoundError:
        is_module = False
    return (f"{module}.{name}", "") if is_module else (module, name)


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_plugin_imports_only_published_modules(plugin):
    allowed = PUBLISHED | {"zeromq_backend": {ENGINE}, "web": DASHBOARD}.get(plugin, set())
    wrong = [
        f"{path.relative_to(ROOT)}: {module} {name}".rstrip()
        for path in SOURCES
        if path.relative_to(ROOT).parts[1] == plugin
        for module, name in used(path.read_text())
        if module not in allowed or (name and not hasattr(importlib.import_module(module), name))
    ]
    assert wrong == []


@pytest.mark.parametrize("plugin", [name for name in PLUGINS if (ROOT / "plugins" / name).exists()])
def test_a_plugin_does_nothing_when_it_is_imported(plugin):
    """It defines; it changes nothing of the process: every command and every worker imports every plugin."""
    calls = [
        f"{path.relative_to(ROOT)}:{statement.lineno}"
        for path in SOURCES
        if path.is_relative_to(ROOT / "plugins" / plugin)
        for statement in ast.parse(path.read_text()).body
        if isinstance(statement, ast.Expr) and not isinstance(statement.value, ast.Constant)
    ]
    assert calls == []


@pytest.mark.parametrize("module", [jobs_core, backend_kit])
def test_plugins_take_only_listed_names(module):
    taken = {name for path in SOURCES for found, name in used(path.read_text()) if found == module.__name__}
    assert taken - {""} <= set(module.__all__)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("import jobs_core.app", ("jobs_core.app", "")),
        ("from jobs_core import urls", ("jobs_core.urls", "")),
        ("from jobs_core.urls import read", ("jobs_core.urls", "read")),
        ("from jobs_core.backends import base", ("jobs_core.backends.base", "")),
        ("def late():\n    from jobs_core.worker import main", ("jobs_core.worker.main", "")),
        ("from jobs_core import job", ("jobs_core", "job")),
        ("if TYPE_CHECKING:\n    from jobs_core.config import Config", ("jobs_core.config", "Config")),
    ],
)
def test_every_form_of_an_import_is_seen(line, found):
    assert list(used(line)) == [found]
