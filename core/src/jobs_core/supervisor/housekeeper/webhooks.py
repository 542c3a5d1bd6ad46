"""Tell the receivers of webhooks about backlogs, flows that have ended, and letters that no worker made (untold.py).

Workers tell of the other jobs.

Events are pushed as jobs. A push that fails is repeated unchanged. An event about a flow has an id that follows from the flow
and its state, so that several machines tell it once, and a new housekeeper tells again only what is not stored yet.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from ... import boundary
from ...app import App
from ...backends.base import Backend, JobRecord, Outgoing
from ...backends.documents import ABSENT, all_of
from ...backends.flows import FlowStatus
from ...errors import BackendError, BackendUnavailable
from ...failpoints import failpoint
from ...ids import new_token
from ...pauses import Pace
from ...webhooks.announcing import letter_facts, made, wanting
from ...webhooks.job import TOPIC, register
from .untold import Untold

if TYPE_CHECKING:
    from .alerts import Alert

logger = logging.getLogger("jobs.housekeeper")

INTERVAL: Final = 5.0
"""Seconds between two readings of the flows."""

SHARE: Final = 0.02
"""Largest share of time for them."""

PAGE: Final = 1000
MOST_PAGES: Final = 20
"""Flows that are read at once, and most such pages: failed flows come first, then those that run, then the latest ends."""

MEMORY: Final = 43200.0
"""Seconds after its end for which a flow may still be told, and at most half of `result_ttl`: so long its job is remembered."""

SINCE: Final = "webhook"
FAILED: Final = "webhook-failed-flow"
"""Kinds of documents: since when a receiver is told of flows; and the failed flows of which it was told, for they stay."""

REMINDER: Final = 86400.0
"""Seconds between two renewals of the first kind."""

SINCE_TTL, FAILED_TTL = 7 * 86400.0, 30 * 86400.0

_KINDS: Final = {"backlog": "topic.backlog", "over": "topic.caught_up"}
_FACTS: Final = ("topic", "ready", "scheduled", "reserved", "dead", "oldest_age", "seconds", "host")


class Webhooks:
    """The events of one installation. Only the housekeeper's loop uses it."""

    def __init__(self, app: App) -> None:
        register(app)
        self._app = app
        self._pending: dict[str, list[Outgoing]] = {}  # subject → the jobs that tell the newest about it
        self._sending: tuple[str, list[Outgoing]] | None = None  # unanswered request
        self._flows = list(wanting(app.config, "flow", None))
        self._dead = [name for name, settings in app.config.webhooks.items() if "dead" in settings.events]
        self._untold = Untold(app, self._about_letter, self._is_recent)
        self._memory = min(MEMORY, float(app.config.topic(TOPIC).result_ttl) / 2)
        self._since: dict[str, float] = {}
        self._next_reminder = 0.0
        self._told: set[str] = set()  # ids of the jobs that tell about flows
        self._next = 0.0
        self._pace = Pace(SHARE)

    def alert(self, alert: Alert) -> None:
        """Note an alert for the receivers that want to know of it; of a topic, only the newest is kept during an outage."""
        kind, topic = _KINDS.get(alert.facts["kind"]), alert.facts.get("topic")
        if kind is not None and topic is not None:
            facts = {name: alert.facts[name] for name in _FACTS}
            names = list(wanting(self._app.config, "backlog", topic))
            self._pending[topic] = [job for name in names for job in self._made(name, kind, facts)]

    def work(self, backend: Backend) -> None:
        """Look for flows that have ended and letters that nobody has told of, and push what there is to tell.

        Raises the errors of the backend.
        """
        if time.monotonic() >= self._next:
            begin = time.monotonic()
            self._look(backend)
            now = time.monotonic()
            self._next = now + self._pace.pause(now - begin, INTERVAL)
        if self._sending is None and any(self._pending.values()):
            self._sending = new_token(), [each for some in self._pending.values() for each in some]
            self._pending.clear()
        if self._sending is not None:
            request, jobs = self._sending
            backend.push(jobs, request)
            self._sending = None

    def _look(self, backend: Backend) -> None:
        """Look at what the events of no worker tell."""
        flows = bool(self._flows) and "flows" in backend.features
        letters = bool(self._dead) and "dead_groups" in backend.features and "documents" in backend.features
        if (flows or letters) and time.monotonic() >= self._next_reminder:
            self._remember(backend)
        if flows:
            self._look_at_flows(backend)
        if letters:
            self._untold.look(backend)

    def _look_at_flows(self, backend: Backend) -> None:
        """Read flows page by page, and push what is to be told of each page in one step."""
        seen: set[str] = set()
        for number in range(MOST_PAGES):
            page = backend.flows(PAGE, number * PAGE)
            news = self._tell(backend, [flow for flow in page if _has_ended(flow)], seen)
            if len(page) < PAGE or (not news and page[-1].state in ("done", "cancelled")):
                break
        self._told &= seen

    def _remember(self, backend: Backend) -> None:
        """Find out since when each receiver is told of flows and letters, and at first which failed flows it knows already.

        By the broker's clock: what a document says that was just made is when that was.
        """
        for name in dict.fromkeys((*self._flows, *self._dead)):
            new = backend.put_document(SINCE, name, b"{}", new_token(), expected=ABSENT, ttl=SINCE_TTL) is not None
            found = backend.document(SINCE, name)
            if found is not None:
                self._since[name] = found.changed_at
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    self._since[name] = found.changed_at if new else float(json.loads(found.data)["since"])
                data = json.dumps({"since": self._since[name]}).encode()
                backend.put_document(SINCE, name, data, new_token(), expected=found.version, ttl=SINCE_TTL)
        if self._next_reminder == 0.0:
            self._told = {document.name for document in all_of(backend, FAILED)}
        self._next_reminder = time.monotonic() + REMINDER

    def _tell(self, backend: Backend, flows: Iterable[FlowStatus], seen: set[str]) -> bool:
        """Push the jobs that tell about flows, unless that was done; return whether there were any. Add their ids to `seen`."""
        jobs: list[Outgoing] = []
        failed: list[str] = []
        for flow in flows:
            for name in self._flows:
                told_as = f"webhook-{hashlib.sha256(json.dumps([name, flow.id, flow.state]).encode()).hexdigest()[:32]}"
                seen.add(told_as)
                if told_as not in self._told and self._is_news(name, flow):
                    jobs += self._made(name, f"flow.{flow.state}", _facts(flow), told_as)
                    failed += [told_as] if flow.state == "failed" else []
        if jobs:
            failpoint("webhook.read")
            backend.push(jobs, new_token())
            for told_as in failed:
                self._note_failed(backend, told_as)
        self._told |= seen
        return bool(jobs)

    def _about_letter(self, name: str, record: JobRecord, told_as: str) -> list[Outgoing]:
        return self._made(name, "job.dead", letter_facts(self._app, record), told_as, record.since)

    def _made(
        self, name: str, kind: str, facts: dict[str, Any], told_as: str | None = None, at: float | None = None
    ) -> list[Outgoing]:
        """Return the job that tells a receiver; none, with the reason in the log, if it cannot be made."""
        try:
            return [made(self._app, name, kind, facts, id=told_as, at=at)]
        except Exception as error:  # a hook of the application may raise anything
            boundary.log(
                logger, logging.ERROR, "event %s for webhook %s could not be made: %s", kind, name, boundary.told(error)
            )
            return []

    def _is_recent(self, name: str, at: float, now: float) -> bool:
        return at >= max(self._since.get(name, now), now - self._memory)

    def _is_news(self, name: str, flow: FlowStatus) -> bool:
        since = self._since.get(name, flow.broker_now)
        if flow.ended_at is None:  # failed: it may go on when its dead letters are retried
            return flow.created_at >= since - MEMORY
        return flow.ended_at >= max(since, flow.broker_now - self._memory)

    def _note_failed(self, backend: Backend, told_as: str) -> None:
        try:
            backend.put_document(FAILED, told_as, b"{}", new_token(), expected=ABSENT, ttl=FAILED_TTL)
        except BackendUnavailable:
            raise
        except BackendError:  # 10,000 failed flows: a new housekeeper may tell the latest of them again
            pass


def _has_ended(flow: FlowStatus) -> bool:
    return flow.state in ("done", "cancelled") or (flow.state == "failed" and flow.active == 0)


def _facts(flow: FlowStatus) -> dict[str, Any]:
    names = ("id", "name", "state", "total", "waiting", "done", "dead", "cancelled")
    return {name: getattr(flow, name) for name in names}
