"""Children whose parent is gone before they have looked."""

from __future__ import annotations

import os
import time

from jobs_core.supervisor import kernel


def test_a_child_whose_supervisor_is_gone_before_it_looks_ends():
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    child = os.fork()
    if child == 0:
        kernel.adopted_by(gone)  # never comes about
        os._exit(0)
    begin = time.monotonic()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert time.monotonic() - begin < 10.0
