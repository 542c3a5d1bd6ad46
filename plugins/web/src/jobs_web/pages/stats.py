"""Statistics over time: of all topics, of one topic with its job functions, and of one job function."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from starlette.responses import Response

from jobs_core import JobsError
from jobs_core.backends.base import Backend
from jobs_core.backends.statistics import FIVE_MINUTES, JOBS_KEPT, MINUTES_KEPT
from jobs_core.statistics import Line, Span, Tally, of_all, of_jobs, of_topics

from ..charts import Chart
from ..errors import Refused
from ..live import packed
from ..visit import Visit
from .overview import COLUMNS, RANGES, charts_of, failures_of, known_of

if TYPE_CHECKING:
    from ..site import Site

MOST_TOPICS = 100
"""Topics whose figures are listed, those with the most jobs first. With more topics, they are listed without figures."""

MOST_JOBS = 200
"""Job functions of a topic that are listed."""

LAST_HOUR = 3600.0


class Seen(Struct, frozen=True):
    """What was counted of a subject."""

    span: Span
    line: Line
    known: list[bool]  # of each column, whether any machine has reported
    jobs: list[tuple[str, Tally]] = []  # job functions of a topic, those that ran longest in all first

    @property
    def charts(self) -> list[Chart]:
        columns: Sequence[Tally] = self.line.columns
        runs, wait, run = charts_of(self.span, columns, self.known)
        return [runs, failures_of(self.span, columns, self.known), wait, run]


def read(site: Site, name: str = "") -> int:
    """Return the minute: machines send their figures once in each, and nothing is read for those who follow."""
    return int(time.time() // 60)


def still(minute: int) -> bytes:
    """Return what counts as a change of statistics."""
    return packed(minute)


def show(visit: Visit) -> Response:
    """Show what was counted of all topics, of a topic, or of a job function in a topic."""
    topic, job = visit.query("topic"), visit.query("job")
    snapshot = visit.snapshot()
    if topic and topic not in snapshot.topics:
        raise Refused(404, f"there is no topic {topic}")
    if job and not topic:
        raise Refused(404, "statistics of a job function are kept by topic: name the topic")
    ranges = [name for name, seconds in RANGES.items() if not job or seconds <= JOBS_KEPT]
    since = visit.query("since") if visit.query("since") in ranges else "1h"
    seen, why_not = _seen(visit, topic, job, since)
    topics = list(snapshot.topics)
    figures = {} if topic or seen is None or len(topics) > MOST_TOPICS else _of_each(visit)
    ranked = sorted(topics, key=lambda name: (-(figures[name].runs if name in figures else 0), name))
    return visit.page(
        "stats.html",
        topic=topic,
        job=job,
        seen=seen,
        total=None if seen is None else seen.line.total,
        why_not=why_not,
        ranges=ranges,
        since=since,
        figures=figures,
        topics=[] if topic else ranked[: 5 * MOST_TOPICS],
        of_a_day=RANGES[since] > JOBS_KEPT,
    )


def _seen(visit: Visit, topic: str, job: str, since: str) -> tuple[Seen | None, str]:
    """Return what was counted; or None, and why it is not known."""

    def read(backend: Backend) -> tuple[Seen | None, str]:
        if "statistics" not in backend.features:
            return None, "This backend keeps no statistics over time."
        found = _of_job(backend, topic, job, since) if job else _of_topic(backend, topic, since)
        if found is None:
            return None, f"{job} has not run in topic {topic} within a day."
        if not any(found.known):
            return None, "No machine has reported in this time: each sends its figures once a minute."
        return found, ""

    try:
        return visit.site.kept(f"stats {since} {topic} {job}", lambda: visit.operate(read))
    except JobsError as error:
        return None, str(error)


def _of_topic(backend: Backend, topic: str, since: str) -> Seen:
    now = time.time()
    span = Span.of(now - RANGES[since], now, COLUMNS, kept=MINUTES_KEPT)
    if not topic:
        everything = of_all(backend, span)
        return Seen(span, everything.everything, known_of(everything))
    found = of_topics(backend, span, topic)
    of_a_day = Span.of(now - min(RANGES[since], JOBS_KEPT), now, COLUMNS, FIVE_MINUTES)
    jobs = [(name, line.total) for (_, name), line in of_jobs(backend, of_a_day, topic).items()]
    jobs.sort(key=lambda each: (-each[1].run.seconds, each[0]))
    return Seen(span, found.topics.get(topic) or Line.empty(span), known_of(found), jobs[:MOST_JOBS])


def _of_job(backend: Backend, topic: str, job: str, since: str) -> Seen | None:
    now = time.time()
    span = Span.of(now - RANGES[since], now, COLUMNS, FIVE_MINUTES)
    line = of_jobs(backend, span, topic, job).get((topic, job))
    if line is None:
        a_day = Span.of(now - JOBS_KEPT, now, COLUMNS, FIVE_MINUTES)
        if (topic, job) not in of_jobs(backend, a_day, topic, job):
            return None
    return Seen(span, line or Line.empty(span), known_of(of_all(backend, span)))


def _of_each(visit: Visit) -> dict[str, Tally]:
    """Return the figures of each topic in the last hour."""

    def read(backend: Backend) -> dict[str, Tally]:
        now = time.time()
        found = of_topics(backend, Span.of(now - LAST_HOUR, now, COLUMNS))
        return {name: line.total for name, line in found.topics.items()}

    try:
        return visit.site.kept("stats of each topic", lambda: visit.operate(read))
    except JobsError:  # the page has said so
        return {}
