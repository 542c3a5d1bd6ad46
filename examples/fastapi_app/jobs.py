"""The jobs, in a module that knows nothing of the web."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from jobs_core import job


class Picture(BaseModel):
    """What is to be made smaller."""

    name: str
    width: int = 200


@job(store_result=True, timeout="1m")
async def thumbnail(picture: Picture) -> str:
    """Async jobs run as tasks of one event loop, as many as `concurrency` says."""
    await asyncio.sleep(0.01)  # the work
    return f"{picture.name}-{picture.width}.jpg"
