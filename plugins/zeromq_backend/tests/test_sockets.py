"""The context of a process is there or refused: libzmq ends a process that has no descriptors for its threads."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import os, resource
from jobs_zeromq import sockets

_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
taken = [int(link) for link in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{link}")]

def leave(number):
    limit = next(n for n in range(1, most) if n - len([fd for fd in taken if fd < n]) == number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))

for number in range(sockets._OF_THREADS):
    leave(number)
    try:
        sockets.context()
    except OSError as error:
        print(error.strerror)
leave(sockets._OF_THREADS)
with sockets.context().socket(sockets.zmq.PAIR):
    print("open")
"""


def test_a_context_is_refused_while_descriptors_are_short_and_starts_with_those_that_it_says_it_needs():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["Too many open files"] * 12 + ["open"]
