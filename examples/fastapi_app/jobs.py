"""The jobs, in a module that does not depend on the web framework."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from jobs_core import job


class Picture(BaseModel):
    """The picture to scale down."""

    name: str
    width: int = 200


@job(store_result=True, timeout="1m")
async def thumbnail(picture: Picture) -> str:
    """Scale a picture down. Async jobs run as tasks of one event loop, as many as `concurrency` allows."""
    await asyncio.sleep(0.01)  # the work
    return f"{picture.name}-{picture.width}.jpg"
