"""The housekeeper's process, from its first instruction to its last, as the supervisor's child."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import NoReturn

from ...config import Config
from ...errors import JobsError
from ..housekeeper.housekeeper import Housekeeper
from ..system.channel import Channel
from ..system.messages import Failed, ToHousekeeper, WorkerSpec
from . import child_setup, exit_functions, worker_process
from .child_setup import Ends
from .worker_process import Made

EXIT_PATIENCE = 2.0
"""Seconds for exit functions: a stop waits 3 s at most (helpers.PATIENCE)."""


def main(spec: WorkerSpec, ends: Ends, config: Config, run_dir: Path, supervisor: int, made: Made | None) -> NoReturn:
    """Run the housekeeper until told to stop, or until the supervisor is gone."""
    code = 1
    try:
        child_setup.set_up("housekeeper", "housekeeper", ends, config.logs, supervisor, dies_with_supervisor=False)
        channel = Channel[ToHousekeeper].of(ends.control, ToHousekeeper)
        try:
            if made is None:
                made = worker_process.load(config)
                made.app.plugins.log_troubles()  # else the template has logged them
            housekeeper = Housekeeper(made.app, channel, run_dir, spec.generation)
        except JobsError as error:
            channel.send(Failed(str(error)[:8000]))
            raise
        housekeeper.run()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        exit_functions.exit_process(code, EXIT_PATIENCE)
    raise AssertionError  # pragma: no cover - exit_process does not return
