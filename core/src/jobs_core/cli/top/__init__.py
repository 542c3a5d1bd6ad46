"""`jobsctl top`: the installation live, with keys to browse topics, jobs, dead letters and machines, and to act on them.

It is built on rich, which the core has anyway. Three threads take part. The main thread draws the screen and reads the keys
(screen.py, terminal.py) and never waits for a backend. One thread reads what the current view shows (reading.py); one carries
out actions (acting.py), which are the commands of `jobsctl`, with their output and questions in a window of the screen.
"""

from __future__ import annotations

from .command import top_command

__all__ = ["top_command"]
