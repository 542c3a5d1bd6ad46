"""Children that write log records at full speed, and a small loop that writes them out, as the supervisor does."""

from __future__ import annotations

import logging
import os
import selectors
import sys
import time
from collections.abc import Callable

from jobs_core import logs
from jobs_core.supervisor.log.writer import LogWriter
from jobs_core.supervisor.processes.pipes import ChildOutput
from jobs_core.worker import log_pipe


def child(act: Callable[[], None], format_: str = "text", worker: str = "w") -> tuple[ChildOutput, int]:
    """Fork a process that logs to pipes and runs `act`; return its output and pid."""
    pipes, log_fd, raw_fd = ChildOutput.create()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            pipes.close()
            logging.getLogger().handlers.clear()  # the test runner's
            log_pipe.to_pipe(log_fd, "info", format_, worker=worker)
            log_pipe.capture(raw_fd)
            act()
            logging.shutdown()
            code = 0
        finally:
            os._exit(code)
    os.close(log_fd)
    os.close(raw_fd)
    return pipes, pid


def carry(children: list[tuple[ChildOutput, int]], writer: LogWriter, format_: str = "text") -> None:
    """Write out what children log until all have ended; fail if one failed."""
    selector = selectors.DefaultSelector()
    for number, (pipes, pid) in enumerate(children):
        selector.register(pipes.log_fd, selectors.EVENT_READ, (pipes, number, pid, True))
        selector.register(pipes.raw_fd, selectors.EVENT_READ, (pipes, number, pid, False))
    deadline = time.monotonic() + 100
    while len(selector.get_map()):
        assert time.monotonic() < deadline
        for key, _ in selector.select(5.0):
            pipes, number, pid, is_log = key.data
            if is_log:
                writer.write(pipes.read_log())
            else:
                for line in pipes.read_raw():
                    writer.write(logs.for_raw_line(line, format_, worker=f"w{number}", pid=pid))
            if pipes.log_ended if is_log else pipes.raw_ended:
                selector.unregister(key.fd)
    selector.close()
    for pipes, pid in children:
        pipes.close()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
