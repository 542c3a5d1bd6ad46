"""`python -m jobs_core.supervisor [--config FILE] [--ready-fd N]`: what `jobsctl start` turns into.

Not meant to be typed: `jobsctl start` checks first what a person may have got wrong.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable

from .. import config_sources, escapes, logs
from ..app import private_directory
from ..errors import JobsError
from ..scoreboard import state
from ..urls import redact
from .born import title
from .logwriter import LogWriter
from .loop import Loop
from .master import Supervisor
from .nursery import Offspring
from .outlet import Outlet
from .pidfile import AlreadyRunning, PidFile


def main(arguments: list[str]) -> int:
    """Run a supervisor to its end; the exit code."""
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    file = options.get("--config")
    tell = _Ready(int(options.get("--ready-fd", -1)))
    try:
        effective = config_sources.load(file)
        config = effective.config
        run_dir = private_directory(config.base_dir / config.run_dir)
        private_directory(run_dir / state.WORKERS)
        os.umask(0o077)
        pid_file = PidFile(run_dir)
        writer = LogWriter(config.logs, config.base_dir)
    except AlreadyRunning as error:
        tell(f"jobs: {error}")
        print(escapes.lines(f"jobs: {error}"), file=sys.stderr)
        return 0
    except (JobsError, OSError) as error:
        tell(str(error))
        print(escapes.lines(f"jobs: {error}"), file=sys.stderr)
        return 2
    _raise_descriptor_limit()
    title(f"supervisor {run_dir}")

    def outlet_of(loop: Loop, job_of: Callable[[Offspring], dict[str, str]]) -> Outlet:
        outlet = Outlet(loop, writer, config.logs, job_of)
        logs.to_function(config.logs.level, config.logs.format, outlet.write, worker="supervisor")
        return outlet

    if effective.file:
        os.environ["JOBS_CONFIG"] = str(effective.file.resolve())  # what plugins have run beside the workers reads it too
    supervisor = Supervisor(
        config,
        lambda: config_sources.load(file).config,
        run_dir,
        pid_file,
        outlet_of,
        config_file=str(effective.file or ""),
        backend=redact(config.backend or f"sqlite:///{run_dir / 'jobs.db'}"),
        on_ready=tell,
        awaited=tell.awaited,
    )
    return supervisor.run()


class _Ready:
    """Tells who started us in the background that we serve, or why not; once."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.awaited = descriptor >= 0
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)

    def __call__(self, error: str) -> None:
        if self._descriptor >= 0:
            os.write(self._descriptor, (error or "ready").encode()[:60_000])
            if not error:  # else at the end of this process: until then it holds the run directory
                os.close(self._descriptor)
            self._descriptor = -1


def _raise_descriptor_limit() -> None:
    """Each worker costs a few descriptors here; the soft limit is often 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 65_536) if hard != resource.RLIM_INFINITY else 65_536
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
