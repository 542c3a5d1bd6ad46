"""`python -m jobs_zeromq.broker`: the broker as a child of a supervisor.

It reads the configuration (JOBS_CONFIG, or jobs.toml in the current directory), serves in the foreground, and stops on TERM
or when its parent ends. When it serves, it writes a byte to the descriptor in JOBS_READY_FD. Exit codes are those of
`jobsctl`.
"""

from __future__ import annotations

import logging
import sys

from jobs_core import App
from jobs_core.errors import ConfigError, JobsError, PluginError

from .main import die_with_parent, serve, tell_ready

FAILED, USAGE = 1, 2


def main() -> int:
    """Serve until stopped; return the exit code."""
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        serve(App().config, tell_ready)
    except (ConfigError, PluginError) as error:
        logging.getLogger("jobs.broker").error("%s", error)
        return USAGE
    except JobsError as error:
        logging.getLogger("jobs.broker").error("%s", error)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
