"""Buy something, and something that fails. The queue and its worker are in this process, as in a test."""

from __future__ import annotations

from orders import buy

from jobs_core.testing import JobsQueue

if __name__ == "__main__":
    with JobsQueue() as queue:
        for order, amount in ((7, 30), (8, 0)):
            handle = buy(order, amount, ["tea", "cups"])
            queue.drain(raise_errors=False)
            print(f"order {order}: {handle.status()}")
