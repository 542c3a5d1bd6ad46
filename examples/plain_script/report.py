"""A script that has the slow part done in the background and waits for it: `python report.py notes.txt …`

No framework, no plugin, no configuration file: SQLite in `.jobs`, and `jobsctl start` beside it.
"""

from __future__ import annotations

import sys

from counting import count

if __name__ == "__main__":
    handles = count.enqueue_many([(path,) for path in sys.argv[1:]])
    for path, handle in zip(sys.argv[1:], handles, strict=True):
        print(f"{handle.result(timeout=60):8} words in {path}")
