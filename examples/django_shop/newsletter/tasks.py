"""Tasks written for Django's own task framework; they run on the same workers, unchanged."""

import logging

from django.tasks import task

logger = logging.getLogger(__name__)


@task(queue_name="mail", priority=-10)
def send(subject: str, to: list[str]) -> int:
    """Send a newsletter; return the number of mails."""
    for address in to:
        logger.info("To %s: %s", address, subject)
    return len(to)
