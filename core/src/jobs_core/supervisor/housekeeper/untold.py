"""Tell the receivers of webhooks about dead letters that no worker has made, and so none has told.

These are jobs that an operator discards, additions that a flow refuses, and messages that a backend itself cannot read. Their
groups of dead letters have no place and no message, because no run and no worker has failed. An event has an id that follows
from the receiver, the job and the time of its death: so several machines tell it once, and a new housekeeper repeats nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

from ...app import App
from ...backends.base import Backend, JobRecord, Outgoing
from ...backends.flows import was_refused
from ...backends.letters import DISCARDED, DeadGroup
from ...failpoints import failpoint
from ...ids import new_token
from ...webhooks.announcing import letter_facts, wanting
from ...webhooks.job import NAME, TOPIC

PAGE: Final = 1000
"""Most letters that are read, and told, in one step."""

MOST_GROUPS: Final = 1000
"""Most groups of a topic that are looked at, the largest first."""

Death: TypeAlias = "tuple[str, float | None]"
"""A job, and when it died: it may die again."""

Make: TypeAlias = Callable[[str, JobRecord, str], list[Outgoing]]
"""Returns the job that tells a receiver of a letter under an id."""

IsNews: TypeAlias = Callable[[str, float, float], bool]
"""Returns whether a receiver is to be told of a death at a time, the other being now; both by the broker's clock."""


class Untold:
    """The dead letters that the housekeeper tells of. Only its loop uses it."""

    def __init__(self, app: App, make: Make, is_news: IsNews) -> None:
        self._app = app
        self._make = make
        self._is_news = is_news
        self._known: dict[tuple[str, str], DeadGroup] = {}
        self._told: dict[tuple[str, str], set[Death]] = {}  # of the letters of a group that were looked at

    def look(self, backend: Backend) -> None:
        """Find such letters, and push what there is to tell; costs one call while nothing has died. Raises BackendError."""
        config = self._app.config
        topics = [topic for topic in backend.topics() if topic != TOPIC and any(wanting(config, "dead", topic))]
        if not topics:
            return
        groups = {
            (each.topic, each.fingerprint.id): each
            for each in backend.dead_groups(topics, MOST_GROUPS)
            if each.fingerprint.id and not each.fingerprint.place and not each.fingerprint.message
        }
        for place in self._known.keys() - groups.keys():
            del self._known[place]
            self._told.pop(place, None)
        for place, group in groups.items():
            if self._known.get(place) != group:
                self._tell(backend, place, group.letters)
                self._known[place] = group

    def _tell(self, backend: Backend, place: tuple[str, str], letters: int) -> None:
        """Push the events about the new letters of a group, from the newest page to the first that has none."""
        told = self._told.get(place, set())
        seen: set[Death] = set()
        end = letters
        while end > 0:
            begin = max(0, end - PAGE)
            page = backend.dead_in_group(*place, end - begin, begin)
            news = [record for record in page if (record.id, record.since) not in told]
            jobs = list(self._jobs(news))
            if jobs:
                failpoint("webhook.read")
                backend.push(jobs, new_token())
            seen.update((record.id, record.since) for record in page)
            if not news:
                break
            end = begin
        self._told[place] = seen if end <= 0 else told | seen

    def _jobs(self, records: Iterable[JobRecord]) -> Iterator[Outgoing]:
        for record in records:
            if not _is_untold(record) or letter_facts(self._app, record)["job"] == NAME:
                continue
            for name in wanting(self._app.config, "dead", record.topic):
                at = record.since or 0.0
                if self._is_news(name, at, record.broker_now):
                    told_as = hashlib.sha256(json.dumps([name, record.id, at]).encode()).hexdigest()[:32]
                    yield from self._make(name, record, f"webhook-{told_as}")


def _is_untold(record: JobRecord) -> bool:
    """Return whether no worker can have told of a dead letter: it would have left an error."""
    return not record.errors or record.reason.startswith(DISCARDED) or was_refused(record.id, record.reason)
