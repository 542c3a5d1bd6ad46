"""Applications in modules of a directory of their own, under names that no other test has."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs_core import set_app_source, set_current_app
from jobs_core.ids import new_token
from jobs_fastapi import application, extension


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Write a module, or a package of several, and return its name."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    made: list[str] = []

    def write(source: str, **others: str) -> str:
        name = f"shop_{new_token(4)}".lower().replace("-", "_")
        made.append(name)
        if not others:
            (tmp_path / f"{name}.py").write_text(source)
        else:
            (tmp_path / name).mkdir()
            for file, text in {"__init__": source, **others}.items():
                path = tmp_path / name / f"{file.replace('__in__', '/')}.py"
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)
        return name

    yield write
    application._built.clear()
    for name in [loaded for loaded in sys.modules if loaded.startswith(tuple(made))] if made else []:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def _leave_no_application(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(extension, "in_worker", False)
    yield
    set_app_source(None)
    set_current_app(None)
