"""Plugins made from source texts, as if they were installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from jobs_core.plugins import Plugins


class Distribution(metadata.Distribution):
    """An installed distribution that does not exist on disk."""

    def __init__(self, name, entry_points):
        self._name, self._entry_points = name, entry_points

    def read_text(self, filename):
        if filename == "METADATA":
            return f"Metadata-Version: 2.1\nName: {self._name}\nVersion: 1.2.3\n"
        if filename == "entry_points.txt":
            return "[jobs]\n" + "\n".join(f"{name} = {module}" for name, module in self._entry_points.items())
        return None

    def locate_file(self, path):
        raise FileNotFoundError(path)


@pytest.fixture
def discover(tmp_path, monkeypatch):
    """Return plugins made from source texts, one distribution each."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def discover(disabled=(), **sources):
        entry_points = []
        for name, source in sources.items():
            module = f"plugin_{name}"
            (tmp_path / f"{module}.py").write_text(f"from jobs_core import hookimpl\n{source}")
            sys.modules.pop(module, None)
            made.append(module)
            entry_points += Distribution(f"jobs-{name}", {name: module}).entry_points
        return Plugins(entry_points, disabled=disabled)

    yield discover
    for module in made:
        sys.modules.pop(module, None)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Install plugins made from source texts, for this process and for children of the directory that it returns."""
    place = tmp_path / "installed"
    place.mkdir()
    monkeypatch.syspath_prepend(place)
    monkeypatch.setattr("jobs_core.cli.main._added", None)
    made: list[str] = []

    def install(**sources: str) -> Path:
        for name, source in sources.items():
            (place / f"plugin_{name}.py").write_text(f"from jobs_core import hookimpl\n{source}")
            info = place / f"jobs_{name}-1.2.3.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: jobs-{name}\nVersion: 1.2.3\n")
            (info / "entry_points.txt").write_text(f"[jobs]\n{name} = plugin_{name}\n")
            made.append(f"plugin_{name}")
        monkeypatch.setenv("PYTHONPATH", str(place))
        return place

    yield install
    for module in made:
        sys.modules.pop(module, None)
