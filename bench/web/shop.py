"""The jobs of the store that the dashboard shows."""

from __future__ import annotations

from jobs_core import job


@job(name="shop.ship")
def ship(order: int, customer: str, note: str = "") -> None:
    """Ship an order."""


@job(name="shop.charge", limits="stripe:{customer}")
def charge(customer: str, cents: int) -> None:
    """Charge a customer, under the limits of the customer's account."""
