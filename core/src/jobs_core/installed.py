"""Find the entry points of installed distributions.

`importlib.metadata` finds the same, but its import alone takes a tenth of the time until a new process has enqueued its first
job. Only where distributions may be elsewhere than in directories (in an archive, or behind an importer of their own), it is
asked.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from typing import Any, NamedTuple, Protocol


class Distribution(NamedTuple):
    """A distribution that is installed."""

    name: str
    version: str


class EntryPoint(Protocol):
    """One object that a distribution offers to others; those of `importlib.metadata` fit, too."""

    @property
    def name(self) -> str: ...
    @property
    def dist(self) -> Any: ...
    def load(self) -> Any: ...


class Found(NamedTuple):
    """An entry point that was found by this module."""

    name: str
    value: str  # "module", "module:attribute" or "module:attribute [extras]"
    dist: Distribution

    def load(self) -> Any:
        """Import the module, and return it or its attribute."""
        module, _, attributes = self.value.partition("[")[0].partition(":")
        found: Any = importlib.import_module(module.strip())
        for attribute in filter(None, attributes.strip().split(".")):
            found = getattr(found, attribute)
        return found


def entry_points(group: str) -> list[EntryPoint]:
    """Return the entry points of a group; where several versions of a distribution are on the path, only those of the first."""
    if _all_in_directories():
        return [*_in_directories(group)]
    from importlib import metadata

    return [*metadata.entry_points(group=group)]


def _all_in_directories() -> bool:
    importers = [finder for finder in sys.meta_path if hasattr(finder, "find_distributions")]
    return importers == [PathFinder] and not any(place.endswith(".egg") or os.path.isfile(place) for place in sys.path)


def _in_directories(group: str) -> Iterator[Found]:
    seen: set[str] = set()
    for place in dict.fromkeys(sys.path):
        try:
            names = os.listdir(place or ".")
        except OSError:
            continue
        for name in names:
            if not name.lower().endswith((".dist-info", ".egg-info")):
                continue
            distribution = re.sub(r"[-_.]+", "_", name[: -len(".dist-info")].partition("-")[0]).lower()
            if distribution not in seen:
                seen.add(distribution)
                yield from _of(os.path.join(place, name), group)


def _of(directory: str, group: str) -> Iterator[Found]:
    text = _read(directory, "entry_points.txt")
    if f"[{group}]" not in text:
        return
    headers = {}
    for line in _read(directory, "METADATA", "PKG-INFO").partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        headers[key] = value.strip()
    distribution = Distribution(headers.get("Name", "?"), headers.get("Version", "?"))
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif section == group and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield Found(name.strip(), value.strip(), distribution)


def _read(directory: str, *names: str) -> str:
    """Return the text of the first of these files that exists; empty if none does."""
    for name in names:
        try:
            with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            continue
    return ""
