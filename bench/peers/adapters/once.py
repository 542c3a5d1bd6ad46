"""A process that enqueues one job and ends, as a cron job does: python -m once ADAPTER.

Prints the time at which the enqueue began, connecting included; the job records the time at which it started.
"""

import importlib
import sys
import time

adapter = importlib.import_module(sys.argv[1])
begin = time.time()
if hasattr(adapter, "connected"):
    import asyncio

    async def send():
        async with adapter.connected():
            await adapter.send("stamp", 0.0)

    asyncio.run(send())
else:
    adapter.send("stamp", 0.0)
print(begin)
