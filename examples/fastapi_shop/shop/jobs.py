"""The jobs of the shop. Workers find this module beside the application."""

from __future__ import annotations

from jobs_core import job

from .database import Order, sessions


@job
async def confirm(order_id: int) -> None:
    """Confirm an order: each job has a session of its own."""
    async with sessions.begin() as session:
        order = await session.get_one(Order, order_id)
        order.state = "confirmed"
