"""Flask applications in their own directories, under module names that no other test uses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs_core import set_app_source, set_current_app
from jobs_core.ids import new_token
from jobs_flask import application


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Write a module, or a package of several; return its name."""
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
def _nobody_is_current() -> Iterator[None]:
    yield
    set_app_source(None)
    set_current_app(None)
