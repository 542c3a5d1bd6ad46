"""Jobs of the orders; a worker looks for them in jobs.py and tasks.py of every installed app."""

import logging

from jobs_core import job

from .models import Order

logger = logging.getLogger(__name__)


@job(topic="mail", retries=5, timeout="30s")
def confirm(order_id: int) -> None:
    """Send the confirmation to the customer."""
    order = Order.objects.get(pk=order_id)
    logger.info("To %s: order %s is on its way.", order.email, order.pk)
    order.state = "confirmed"
    order.save()
