"""The job that sends an event to a receiver, with retries and a dead letter like any other."""

from __future__ import annotations

import contextlib
import time
from typing import Any, Final

import msgspec

from .. import webhook_signing
from ..app import App, current_app
from ..config import Config
from ..errors import Discard, JobsError, Retry
from ..job import job
from ..registry import AnyJob, Registry
from ..runs.context import current_job
from . import receivers
from .sending import Reply, post

TOPIC: Final = "webhooks"
NAME: Final = "jobs.webhook"

LONGEST_PAUSE: Final = 3600.0
"""Longest pause that a receiver can ask for with Retry-After, in seconds."""

_ours = Registry()


class Refused(JobsError):
    """A receiver did not take an event."""


@job(name=NAME, topic=TOPIC, backoff=5.0, timeout=60.0, registry=_ours)
def deliver(webhook: str, event: str, timestamp: str, data: dict[str, Any]) -> None:
    """Send one event to the receiver `webhook`."""
    context = current_job()
    config = current_app().config
    if webhook not in config.webhooks:
        raise Refused(f"[webhooks.{webhook}] is not in the configuration of this worker: add it, or drop this job")
    _judge(webhook, sent(config, webhook, context.id, event, timestamp, data))


def sent(config: Config, webhook: str, id: str, event: str, timestamp: str, data: dict[str, Any]) -> Reply:
    """Sign an event, send it, and return the answer. Raises ConfigError and ConnectionError, which show no secret."""
    body = msgspec.json.encode({"type": event, "timestamp": timestamp, "data": data})
    signed = webhook_signing.headers(receivers.keys_of(config, webhook), id, int(time.time()), body)
    try:
        return post(receivers.url_of(config, webhook), body, signed, receivers.networks_of(config.webhooks[webhook]))
    except ConnectionError as error:
        raise type(error)(f"the receiver of webhook {webhook} {error}") from None


def _judge(webhook: str, reply: Reply) -> None:
    """Return if the receiver has taken the event; else end this attempt."""
    if 200 <= reply.status < 300:
        return
    told = refusal(reply)
    if reply.status == 410:
        raise Discard(f"the receiver of webhook {webhook} wants no more events: it {told}")
    if reply.status in (429, 503) and (delay := _pause(reply.retry_after)) is not None:
        raise Retry(f"the receiver of webhook {webhook} {told}", delay=delay)
    raise Refused(f"the receiver of webhook {webhook} {told}")


def refusal(reply: Reply) -> str:
    """Say what a receiver answered instead of 2xx."""
    if 300 <= reply.status < 400:
        return f"answered {reply.status}, a redirect, which is not followed: configure the address it leads to"
    return f"answered {reply.status}" + (f": {reply.text}" if reply.text else "")


def _pause(retry_after: str | None) -> float | None:
    """Return the seconds that a receiver asks for; None if it names a date, or none."""
    with contextlib.suppress(ValueError):
        return min(LONGEST_PAUSE, max(1.0, float(int(retry_after or ""))))
    return None


def register(app: App) -> None:
    """Make the job known to an application whose configuration has webhooks; to others, it stays unknown."""
    if app.config.webhooks and app.registry.get(NAME) is not deliver:
        app.registry.add(deliver)


def delivery_of(app: App, webhook: str) -> AnyJob:
    """Return the job function with the retries of a receiver."""
    return deliver.using(retries=app.config.webhooks[webhook].retries)


__all__ = ["NAME", "TOPIC", "Refused", "deliver", "delivery_of", "refusal", "register", "sent"]
