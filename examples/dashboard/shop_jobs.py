"""The jobs of the shop."""

from __future__ import annotations

from jobs_core import job


@job
def confirm(order: int) -> str:
    """Confirm an order."""
    return f"order {order} is confirmed"
