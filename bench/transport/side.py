"""One side of `bench.transport`: as of `bench.turns`, with jobs that take the codec away."""

from __future__ import annotations

import os

from bench.turns import side

if os.environ.get("BENCH_WITHOUT"):
    side.TASKS = "from bench.transport import without\n" + side.TASKS

if __name__ == "__main__":
    side.main()
