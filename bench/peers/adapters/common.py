"""The work that the jobs of every adapter do. It uses the standard library only."""

from __future__ import annotations

import os
import time

BROKER = os.environ.get("BENCH_BROKER", "")
_ledger = os.open(os.environ.get("BENCH_LEDGER", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def record(value: object) -> None:
    """Append one record of 24 bytes for a job that ran."""
    os.write(_ledger, b"%-23b\n" % str(value).encode())


def noop(n: int) -> None:
    record(n)


def stamp(sent: float) -> None:
    record(f"{time.time() - sent:.9f}")


def work(n: int) -> None:
    time.sleep(0.005)
    record(n)


def limited(n: int) -> None:
    """Note the start and the end of a job of 5 ms."""
    record(f"s{time.monotonic():.6f}")
    time.sleep(0.005)
    record(f"e{time.monotonic():.6f}")


def member(n: int) -> int:
    """Note the end of a member of a group."""
    record(f"m{time.monotonic():.6f}")
    return n


def finish(values: object = None) -> None:
    """Note the start of what comes after the group."""
    record(f"c{time.monotonic():.6f}")
