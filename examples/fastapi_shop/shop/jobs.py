"""The jobs of the shop. Workers find this module beside the application."""

from __future__ import annotations

from typing import Annotated

from sqlalchemy.ext.asyncio import AsyncSession

from jobs_core import injected, job, provided_by

from .database import Order, session


@job
async def confirm(order_id: int, *, session: Annotated[AsyncSession, provided_by(session)] = injected) -> None:
    """Confirm an order. Each run has a session of its own, from the provider that endpoints use as well."""
    order = await session.get_one(Order, order_id)
    order.state = "confirmed"
    await session.commit()
