"""The dashboard's process, from its first instruction to its last, as the supervisor's child: a plugin serves in it."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import NoReturn

from ...config import Config
from ...errors import JobsError
from ..system.channel import Channel
from ..system.messages import Failed, Ready, WorkerSpec
from . import child_setup, exit_functions, worker_process
from .child_setup import Ends
from .worker_process import Made

EXIT_PATIENCE = 1.0
"""Seconds for exit functions: a stop waits 3 s at most (helpers.PATIENCE), and the server takes a part of them."""


def main(spec: WorkerSpec, ends: Ends, config: Config, run_dir: Path, supervisor: int, made: Made | None) -> NoReturn:
    """Run the dashboard until TERM; the kernel kills it together with the supervisor."""
    code = 1
    try:
        child_setup.set_up("dashboard", "dashboard", ends, config.logs, supervisor)
        channel = Channel[None].of(ends.control, None)
        try:
            if made is None:
                made = worker_process.load(config)
            made.app.plugins.dashboard(config)(made.app, lambda: _tell_ready(channel))
        except JobsError as error:
            channel.send(Failed(str(error)[:8000]))
            raise
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        exit_functions.exit_process(code, EXIT_PATIENCE)
    raise AssertionError  # pragma: no cover - exit_process does not return


def _tell_ready(channel: Channel[None]) -> None:
    channel.send(Ready())
