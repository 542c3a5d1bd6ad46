"""Jobs of the orders. Each runs in its own application context, and so with its own session."""

from __future__ import annotations

from flask import current_app, render_template_string

from jobs_core import job

from ..database import Order, db


@job(topic="mail", retries=5, timeout="30s")
def confirm(order_id: int) -> None:
    """Send the confirmation to the customer."""
    order = db.session.get_one(Order, order_id)
    text = render_template_string("To {{ order.email }}: order {{ order.id }} is on its way.", order=order)
    current_app.logger.info(text)
    order.state = "confirmed"
    db.session.commit()
