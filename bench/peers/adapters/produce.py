"""The producer, the same for all peers: python -m produce ADAPTER WHAT COUNT. Prints its CPU time and its seconds.

    push       COUNT no-op jobs one by one
    bulk       the same with the peer's bulk call, a thousand a call
    threads    the same one by one from eight threads that share the producer
    stamp      jobs that note how long ago they were enqueued, one every 10 ms
    stream     no-op jobs, a thousand a call, while fewer than ten thousand wait
    work       jobs of 5 ms
    nap        jobs of a second
    limited    jobs of 5 ms under a limit of 10 at once
    rated      no-op jobs under a rate
    group      one group of COUNT no-op jobs, and a job after it
    results    the same, and the job after it takes the results of all

An adapter has `send(job, argument)`, and may have `send_many(job, arguments)`; both are async or neither, and
in that case, `connected()` is the context that they need.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import os
import sys
import threading
import time

BATCH = 1000
BACKLOG = 10_000
RECORD = 24


def batches(count):
    return [range(first, min(first + BATCH, count)) for first in range(0, count, BATCH)]


def waiting(sent):
    """Return how many of the jobs sent so far have not run."""
    return sent - os.stat(os.environ["BENCH_LEDGER"]).st_size // RECORD


def produce(adapter, what, count):
    send, job = adapter.send, "noop" if what in ("push", "bulk", "threads", "stream") else what
    send("noop", -1)  # connects
    cpu, begin = time.process_time(), time.perf_counter()
    if what == "threads":
        threads = [threading.Thread(target=_push, args=(send, count // 8)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    elif what == "stamp":
        for _ in range(count):
            time.sleep(0.01)
            send(job, time.time())
    elif what == "stream":
        for batch in batches(count):
            while waiting(batch[0]) >= BACKLOG:
                time.sleep(0.005)
            _many(adapter, batch)
    elif what in ("group", "results"):
        adapter.send_group(count, results=what == "results")
    elif what != "push" and hasattr(adapter, "send_many"):
        for batch in batches(count):
            adapter.send_many(job, batch)
    else:
        for n in range(count):
            send(job, n)
    return time.process_time() - cpu, time.perf_counter() - begin


def _many(adapter, batch):
    if hasattr(adapter, "send_many"):
        adapter.send_many("noop", batch)
    else:
        for n in batch:
            adapter.send("noop", n)


def _push(send, count):
    for n in range(count):
        send("noop", n)


async def aproduce(adapter, what, count):
    send, job = adapter.send, "noop" if what in ("push", "bulk", "stream") else what
    async with adapter.connected():
        await send("noop", -1)
        cpu, begin = time.process_time(), time.perf_counter()
        if what == "stamp":
            for _ in range(count):
                await asyncio.sleep(0.01)
                await send(job, time.time())
        elif what == "stream":
            for batch in batches(count):
                while waiting(batch[0]) >= BACKLOG:
                    await asyncio.sleep(0.005)
                await adapter.send_many(job, batch)
        elif what not in ("push", "stream") and hasattr(adapter, "send_many"):
            for batch in batches(count):
                await adapter.send_many(job, batch)
        else:
            for n in range(count):
                await send(job, n)
        return time.process_time() - cpu, time.perf_counter() - begin


if __name__ == "__main__":
    adapter, what, count = importlib.import_module(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    with contextlib.suppress(KeyboardInterrupt):
        if inspect.iscoroutinefunction(adapter.send):
            print(*asyncio.run(aproduce(adapter, what, count)))
        else:
            print(*produce(adapter, what, count))
