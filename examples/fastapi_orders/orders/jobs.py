"""The jobs of the shop."""

from __future__ import annotations

from typing import Annotated

from sqlalchemy.ext.asyncio import AsyncSession

from jobs_core import injected, job, provided_by

from .database import Order, session


@job
async def confirm(order_id: int, *, session: Annotated[AsyncSession, provided_by(session)] = injected) -> None:
    """Confirm an order. It is there whenever this runs, because both were committed together."""
    order = await session.get_one(Order, order_id)
    order.state = "confirmed"
    await session.commit()
