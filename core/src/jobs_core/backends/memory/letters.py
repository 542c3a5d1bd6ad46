"""Dead letters by what went wrong."""

from __future__ import annotations

from collections import defaultdict

from ..letters import DeadGroup, Fingerprint, last_of
from .records import Job


class Groups:
    """The dead letters of each topic by their fingerprint. Callers have to hold the store's lock."""

    def __init__(self) -> None:
        self._topics: dict[str, dict[str, dict[str, Job]]] = defaultdict(dict)  # by topic and id of the fingerprint

    def add(self, job: Job, of: Fingerprint | None) -> None:
        """Add a job that is a dead letter now; without a fingerprint, it gets that of its last error."""
        job.fingerprint = of or last_of(job.reason, job.errors)
        self._topics[job.topic].setdefault(job.fingerprint.id, {})[job.id] = job

    def remove(self, job: Job) -> None:
        """Remove a job that is no dead letter any more."""
        assert job.fingerprint is not None
        groups = self._topics[job.topic]
        letters = groups[job.fingerprint.id]
        del letters[job.id]
        if not letters:
            del groups[job.fingerprint.id]
        job.fingerprint = None

    def of(self, topic: str, most: int) -> list[DeadGroup]:
        """Return the groups of a topic, the largest first."""
        found = sorted(self._topics.get(topic, {}).values(), key=lambda letters: -len(letters))[:most]
        return [_group(topic, letters) for letters in found]

    def letters(self, topic: str, group: str) -> list[Job]:
        """Return the dead letters of a group, oldest first."""
        letters = self._topics.get(topic, {}).get(group, {})
        return sorted(letters.values(), key=lambda job: job.since)


def _group(topic: str, letters: dict[str, Job]) -> DeadGroup:
    since = [job.since for job in letters.values()]
    newest = max(letters.values(), key=lambda job: job.since)
    assert newest.fingerprint is not None
    return DeadGroup(topic, newest.fingerprint, len(letters), min(since), max(since), newest.id)
