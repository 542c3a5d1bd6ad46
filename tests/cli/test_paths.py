"""A path whose name is not UTF-8 is shown escaped, with advice; what can work all the same does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from jobs_core import App, ConfigError, config_sources
from jobs_core.plugins import Plugins

from ..support.project import Project

ODD = os.fsdecode(b"od\xffd")
SHOWN = r"od\udcffd"


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path / ODD)
    yield project
    project.close()
    shutil.rmtree(tmp_path / ODD)  # pytest's own cleanup prints names


REFUSED = ["check", "push tasks.note", "worker --drain", "start --daemon", "topics", "restart", "status", "stop"]


@pytest.mark.parametrize("command", REFUSED)
def test_a_project_in_such_a_directory_is_refused(odd: Project, command: str):
    text = odd.here(*command.split(), code=2)
    assert f"{SHOWN} is not valid UTF-8: rename the directory, or move the project" in text


def test_a_producer_in_such_a_directory_is_warned_unless_it_needs_none(odd: Project):
    config = msgspec.structs.replace(config_sources.load(cwd=odd.root).config, backend="")
    with pytest.raises(ConfigError, match="the run directory .* is not valid UTF-8"):
        _ = App(config, plugins=Plugins()).backend_url
    config = config_sources.load(cwd=odd.root, environ={"JOBS_BACKEND": "redis://localhost"}).config
    assert App(config, plugins=Plugins()).backend_url == "redis://localhost"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("JOBS_RUN_DIR", f"/tmp/{ODD}"),
        ("JOBS_BACKEND", f"sqlite:////tmp/{ODD}.db"),
        ("JOBS_LOGS__FILE", f"{ODD}.log"),
    ],
)
def test_a_variable_that_names_such_a_path_is_refused_by_its_name(project: Project, variable: str, value: str):
    text = project.here("check", code=2, **{variable: value})
    assert f"{variable}: expected valid UTF-8; files and directories with other names have to be renamed" in text


@pytest.mark.parametrize("command", ["check", "push tasks.note"])
def test_an_error_in_a_module_in_such_a_directory_shows_its_path_escaped(project: Project, tmp_path, monkeypatch, command: str):
    beside = tmp_path / ODD
    beside.mkdir()
    (beside / "broken.py").write_text("raise ValueError('x')\n")
    monkeypatch.syspath_prepend(str(beside))
    text = project.here(*command.split(), code=2, JOBS_MODULES='["broken"]')
    assert f"{SHOWN}/broken.py:1" in text
    assert "ValueError: x" in text
    shutil.rmtree(beside)
