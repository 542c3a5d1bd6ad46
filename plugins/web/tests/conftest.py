"""An application with a dashboard, on memory and on SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs_core import set_current_app
from jobs_core.backends.memory import forget
from jobs_core.ids import new_token as new_name

from .support import Rig


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
        rig.app.close()
        if url.startswith("memory"):
            forget(url)


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig()
