"""Things that a process may have lost and that a worker cannot do without."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, resource
from jobs_core.soundness import UnsoundProcess, require_soundness, watch
ours, theirs = os.pipe(), os.pipe()
{watch}
require_soundness()
{spoil}
try:
    require_soundness()
except UnsoundProcess as error:
    print(error)
"""


def said(spoil: str, watch: str = "watch([ours[0]])") -> str:
    program = PROGRAM.format(spoil=spoil, watch=watch)
    return subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, check=True).stdout


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        ("os.close(theirs[0])", ""),
        ("os.close(ours[0])", "descriptor 3 of this worker was closed"),
        ("os.dup2(theirs[0], ours[0])", "descriptor 3 of this worker was closed"),
        ("os.closerange(3, 4096)", "descriptor 3 of this worker was closed"),
        ("resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))", "RLIMIT_FSIZE was lowered from inf to 0"),
        ("resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))", "RLIMIT_NOFILE was lowered from"),
        ("while True:\n    try: os.dup(0)\n    except OSError: break", "this process can open no file: Too many open files"),
    ],
)
def test_changes_of_a_job_to_its_process_are_detected(spoil: str, error: str):
    told = said(spoil)
    assert told.startswith(error)
    assert bool(told) == bool(error)


def test_a_process_that_is_not_a_worker_may_do_as_it_likes():
    assert said("resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))", watch="") == ""
