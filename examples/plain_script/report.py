"""A script that runs its slow part in the background and waits for it: `python report.py notes.txt …`

It needs no framework, no plugin and no configuration file: just SQLite in `.jobs`, and `jobsctl start` beside it.
"""

from __future__ import annotations

import sys

from counting import count

if __name__ == "__main__":
    handles = count.enqueue_many([(path,) for path in sys.argv[1:]])
    for path, handle in zip(sys.argv[1:], handles, strict=True):
        print(f"{handle.result(timeout=60):8} words in {path}")
