"""The first steps of every child: its session, signals, output pipes and title, and the parent that it dies with."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from types import FrameType

from msgspec import Struct
from setproctitle import setproctitle

from ...config import Logs
from ...worker import log_pipe
from ..system import linux
from ..system.loop import default_signals
from . import inherited

IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGTSTP)
"""Signals that a service manager or a terminal may send to all processes: children obey their control channel alone."""


class Ends(Struct, frozen=True):
    """A child's descriptors: its control channel, and the pipes for its log records and its other output."""

    control: int
    log: int
    raw: int

    def __iter__(self) -> Iterator[int]:
        return iter((self.control, self.log, self.raw))

    def close(self) -> None:
        """Close the descriptors, in a process that is not the child."""
        for descriptor in self:
            os.close(descriptor)


def set_up(role: str, name: str, ends: Ends, logs: Logs, supervisor: int, *, dies_with_supervisor: bool = True) -> None:
    """Become a child of the supervisor.

    `dies_with_supervisor`: the kernel kills it together with the supervisor. False for the housekeeper, which then has to
    kill the workers first.
    """
    os.setsid()
    default_signals()
    for number in IGNORED_SIGNALS:
        signal.signal(number, _ignored)
    os.register_at_fork(after_in_child=_restore_signals)
    linux.adopted_by(supervisor)
    if dies_with_supervisor:
        linux.die_with(supervisor)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    log_pipe.to_pipe(ends.log, logs.level, logs.format, worker=name)
    log_pipe.capture(ends.raw)
    os.close(ends.raw)
    inherited.reset()
    title(role)


def title(role: str) -> None:
    """Set the title that `ps` shows; never put a URL or an argument into it."""
    setproctitle(f"jobs: {role}")


def _ignored(signum: int, frame: FrameType | None) -> None:
    """Ignore a signal by a handler, not by SIG_IGN: programs that a job starts would inherit that and ignore their own TERM."""


def _restore_signals() -> None:
    """Restore the default actions in a process that a job forks."""
    for number in IGNORED_SIGNALS:
        if signal.getsignal(number) is _ignored:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
