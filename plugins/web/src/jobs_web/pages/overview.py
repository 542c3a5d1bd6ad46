"""The first page: what needs attention, what happened over time, and the topics."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from markupsafe import Markup
from starlette.responses import Response

from jobs_core import JobsError
from jobs_core.backends.base import Backend, Counts
from jobs_core.operating.attention import Finding, findings
from jobs_core.operating.snapshot import Snapshot
from jobs_core.statistics import Span, Statistics, Tally, of_all

from ..charts import Chart, stacked
from ..hiding import without_messages_of_groups
from ..shown import percent, seconds
from ..visit import Visit

RANGES = {"1h": 3600, "6h": 6 * 3600, "24h": 86_400, "7d": 7 * 86_400, "30d": 30 * 86_400}
"""Times over which the charts go."""

COLUMNS = 60

MOST_TOPICS = 12
"""Topics that the overview shows: those with the most work first."""

MINUTES_KEPT = 86_400


def show(visit: Visit) -> Response:
    """Show the overview."""
    since = visit.query("since") if visit.query("since") in RANGES else "1h"
    snapshot = visit.snapshot()
    statistics, why_not = _statistics(visit, since)
    return visit.page(
        "overview.html",
        snapshot=snapshot,
        findings=_findings(visit, snapshot),
        totals=_totals(snapshot.topics.values()),
        topics=_busiest(snapshot.topics),
        more=max(0, len(snapshot.topics) - MOST_TOPICS),
        charts="" if statistics is None else visit.site.kept(f"charts {since}", lambda: _drawn(visit, statistics)),
        total=None if statistics is None else statistics.everything.total,
        why_not=why_not,
        ranges=list(RANGES),
        since=since,
    )


def _drawn(visit: Visit, statistics: Statistics) -> Markup:
    """Return the charts as they stand in the page: most of what it takes to make it, and the same for all users."""
    chart = visit.site.templates.get_template("parts.html").module.chart  # type: ignore[attr-defined]
    return Markup("").join(chart(each) for each in charts(statistics))


def _findings(visit: Visit, snapshot: Snapshot) -> list[Finding]:
    """Return what needs attention: what the snapshot says, and what is checked now and then, the worst first."""
    risks = [] if snapshot.error else visit.site.risks.get()
    seen = snapshot if visit.sees_arguments else without_messages_of_groups(snapshot)
    found = dict.fromkeys([*findings(visit.app, seen), *risks])
    return sorted(found, key=lambda finding: _LEVELS.index(finding.level))


_LEVELS = ("bad", "warning", "note")


def _totals(counts: object) -> dict[str, int]:
    """Return the numbers of jobs in all topics by state."""
    fields = ("ready", "limited", "waiting", "scheduled", "reserved", "dead")
    return {name: sum(getattr(each, name) for each in counts) for name in fields}  # type: ignore[attr-defined]


def _busiest(topics: dict[str, Counts]) -> list[tuple[str, Counts]]:
    ranked = sorted(topics.items(), key=lambda each: (-each[1].ready - each[1].reserved, -each[1].dead, each[0]))
    return ranked[:MOST_TOPICS]


def _statistics(visit: Visit, since: str) -> tuple[Statistics | None, str]:
    """Return what was counted over time; or None, and why it is not known."""

    def read(backend: Backend) -> Statistics | None:
        now = time.time()
        span = Span.of(now - RANGES[since], now, COLUMNS, kept=MINUTES_KEPT)
        return of_all(backend, span) if "statistics" in backend.features else None

    try:
        found = visit.site.kept(f"statistics {since}", lambda: visit.operate(read))
    except JobsError as error:
        return None, str(error)
    if found is None:
        return None, "This backend keeps no statistics over time."
    if not found.everything.total.reports:
        return None, "No machine has reported yet: each sends its figures once a minute."
    return found, ""


def charts(found: Statistics) -> list[Chart]:
    """Return the charts of statistics: how much ran, how long jobs waited, and how long they ran."""
    return charts_of(found.span, found.everything.columns, known_of(found))


def known_of(found: Statistics) -> list[bool]:
    """Return for each column whether any machine has reported."""
    return [found.is_known(number) for number in range(found.span.columns)]


def charts_of(span: Span, columns: Sequence[Tally], known: Sequence[bool]) -> list[Chart]:
    """Return the charts of what was counted in each column."""

    def points(value: Callable[[Tally], float | None]) -> list[float | None]:
        return [float(value(tally) or 0.0) if there else None for tally, there in zip(columns, known, strict=True)]

    minutes = span.step / 60
    runs = {"done": points(lambda tally: _done(tally) / minutes), "failed": points(lambda tally: tally.failed / minutes)}
    return [
        stacked("Runs a minute", span, runs, "{:,.4g}".format),
        stacked("Wait for a start, 95 of 100", span, {"wait": points(lambda tally: tally.wait.below(0.95))}, seconds),
        stacked("Duration of a run, 95 of 100", span, {"run": points(lambda tally: tally.run.below(0.95))}, seconds),
    ]


def failures_of(span: Span, columns: Sequence[Tally], known: Sequence[bool]) -> Chart:
    """Return the chart of the share of attempts that failed."""
    shares = [
        (tally.failed / tally.ended if tally.ended else 0.0) if there else None
        for tally, there in zip(columns, known, strict=True)
    ]
    return stacked("Failed, of all attempts", span, {"failed": shares}, percent)


def _done(tally: Tally) -> int:
    return max(0, tally.runs - tally.failed)
