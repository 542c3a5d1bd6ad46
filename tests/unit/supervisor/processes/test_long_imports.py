"""The log reports an application that takes long to import, and the module that does."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from jobs_core import events
from jobs_core.config import Config
from jobs_core.supervisor.processes.generation import Generation
from jobs_core.supervisor.system.messages import Importing, TemplateReady


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(events, "emit", lambda event: said.append(str(event)))
    return said


def generation(tmp_path: Any) -> Generation:
    nothing: Any = lambda *_: None
    children: Any = SimpleNamespace(fork=lambda *_: SimpleNamespace(pid=1, kill=nothing, channel=None), close_channel=nothing)
    made = Generation(2, Config(), children, tmp_path, 1, on_ready=nothing, on_failed=nothing, on_lost=nothing)
    made.begin()
    return made


def test_a_long_import_is_reported_soon_and_then_repeatedly(tmp_path, told):
    made = generation(tmp_path)
    made.check()
    assert told == []
    made.check()
    made.check()
    assert told == ["generation 2 is still importing the application (3 s so far)"]
    made._on_message(Importing("shop.tasks"))
    for _ in range(57):
        made.check()
    assert told[1:] == [f"generation 2 is still importing shop.tasks ({seconds} s so far)" for seconds in (30, 60)]


@pytest.mark.parametrize("end", ["ready", "retired"])
def test_a_finished_generation_is_no_longer_reported(tmp_path, told, end):
    made = generation(tmp_path)
    if end == "ready":
        made._on_message(TemplateReady(preloaded=False, fit=True, threads=[], brokers=[]))
    else:
        made.retire()
    for _ in range(60):
        made.check()
    assert told == []


def test_it_is_no_trouble():
    assert events.StillImporting.level == logging.INFO
