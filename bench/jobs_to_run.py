"""The jobs that benchmarks run."""

import asyncio
import os
import time

from jobs_core import job

LEDGER = os.open(os.environ.get("BENCH_LEDGER", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


@job
def noop() -> None:
    pass


@job
def mark() -> None:
    """Record that this job has run: append one byte."""
    os.write(LEDGER, b".")


@job
def stamp(sent: float) -> None:
    """Record the time from the enqueue to this line."""
    os.write(LEDGER, f"{time.time() - sent:.6f}\n".encode())


@job
async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)
