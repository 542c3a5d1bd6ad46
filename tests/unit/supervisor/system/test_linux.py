"""Children whose parent ended before they checked."""

from __future__ import annotations

import os

from jobs_core.scoreboard.writer import start_ticks
from jobs_core.supervisor.system import linux

from ....support.stopwatch import Stopwatch


def test_a_child_whose_supervisor_is_gone_before_it_looks_ends():
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    child = os.fork()
    if child == 0:
        linux.adopted_by(gone)  # never happens
        os._exit(0)
    watch = Stopwatch()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert watch.stop() < 10.0


def test_a_zombie_process_counts_as_gone():
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    assert start_ticks(child) > 0
    watch = Stopwatch()
    linux.wait_for_end(child, 0.01)  # it is alive: the whole time and no longer
    assert start_ticks(child) > 0
    os.close(writer)
    linux.wait_for_end(child, 30.0)
    assert watch.stop() < 20.0, "it was told of the end"
    assert start_ticks(child) == 0
    os.waitpid(child, 0)
    linux.wait_for_end(child, 30.0)  # of no process
