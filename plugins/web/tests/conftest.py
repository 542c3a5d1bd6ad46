"""An application with a dashboard, on memory and on SQLite; and Chromium."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jobs_core import set_current_app
from jobs_core.backends.memory import forget
from jobs_core.ids import new_token as new_name
from jobs_core.testing.services import program

from .support import Rig

ROOT = Path(__file__).parents[3]


@pytest.fixture(params=["memory", "sqlite"])
def make_rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Make a rig with other settings."""
    made: list[tuple[Rig, str]] = []

    def make(**settings: Any) -> Rig:
        url = f"memory://{new_name()}" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db"
        rig = Rig(url, tmp_path, **settings)
        set_current_app(rig.app)
        made.append((rig, url))
        return rig

    yield make
    set_current_app(None)
    for rig, url in made:
        rig.close()
        if url.startswith("memory"):
            forget(url)


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig()


@pytest.fixture(scope="session")
def draw() -> ModuleType:
    """The script that takes the pictures of the documentation: it has a shop with some of everything, and the browser."""
    spec = importlib.util.spec_from_file_location("draw_dashboard", ROOT / "tools" / "draw_dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["draw_dashboard"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def chromium(draw: ModuleType) -> Iterator[Any]:
    """Debian's Chromium without a window, for all tests of a module."""
    program("chromium", "chromium")
    program("chromedriver", "chromium-driver")
    with draw.chromium() as driver:
        yield driver


@pytest.fixture(scope="session")
def look(draw: ModuleType) -> Callable[[Any, str, str], None]:
    """Set the width of the page, and light or dark."""
    return draw.look  # type: ignore[no-any-return]
