"""Limits on concurrency and rate: their use, and overriding them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace
from starlette.responses import Response

from jobs_core.backends.base import Backend
from jobs_core.backends.limits import LimitState, held_back
from jobs_core.escapes import word
from jobs_core.limiting import described
from jobs_core.operating.limits import NONE, applies, changed
from jobs_core.options import limit_error

from ..errors import Refused
from ..live import packed
from ..visit import Visit

if TYPE_CHECKING:
    from ..site import Site

MOST = 200
"""Values of limits that the page shows, those with the most waiting jobs first."""


def show(visit: Visit) -> Response:
    """List limits."""
    found: list[LimitState] | None = visit.site.read("limits")
    chosen = visit.query("limit")
    shown = "" if limit_error(chosen) else chosen
    rows = list(map(_row, found or ()))
    return visit.page(
        "limits.html",
        has_limits=found is not None,
        rows=rows,
        most=MOST,
        chosen=shown,
        applying=next((allows for state, allows, _ in rows if state.limit == shown), ""),
        command=f"jobsctl limits set {word(shown) if shown else 'NAME'} --concurrency N",
    )


def read(site: Site, name: str = "") -> list[LimitState] | None:
    """Read the limits; None if the backend has none."""
    return site.app.operate(lambda backend: backend.limits(MOST) if "limits" in backend.features else None)


def still(found: list[LimitState] | None) -> bytes:
    """Return what counts as a change of limits: everything but times that go on."""
    return packed([replace(each, opens_in=None, closed_for=float(each.closed_for > 0)) for each in found or ()])


def _row(state: LimitState) -> tuple[LimitState, str, str]:
    """Return a limit, what it allows, and why no job can start under it now."""
    return state, described(state.definition) if state.definition else "", ", ".join(held_back(state))


def override(visit: Visit) -> Response:
    """Override a limit, or one value of it, until it is reset."""
    limit = visit.field("limit")
    if reason := limit_error(limit):
        raise Refused(422, reason)
    concurrency, rate, burst = (visit.form.get(name, "").strip() for name in ("concurrency", "rate", "burst"))
    if not (concurrency or rate or burst):
        raise Refused(422, "give a concurrency, a rate or a burst")

    def act(backend: Backend) -> str:
        _, before = applies(visit.app, backend, limit)
        made = changed(before, _number(concurrency, 0), rate or None, _whole(burst))
        backend.override_limit(limit, made)
        return described(made)

    try:
        return visit.back(f"Limit {limit}: {visit.operate(act)}, until it is reset.", visit.url("limits"))
    except ValueError as error:
        raise Refused(422, f"limit {limit}: {error}") from None


def reset(visit: Visit) -> Response:
    """End the override of a limit, and its closures by jobs."""
    limit = visit.field("limit")
    visit.operate(lambda backend: backend.override_limit(limit, None))
    return visit.back(f"Limit {limit} is as it is defined.", visit.url("limits"))


def _number(text: str, least: int) -> int | str | None:
    if text == NONE:
        return NONE
    return _whole(text, least)


def _whole(text: str, least: int = 1) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > 12 or int(text) < least:
        raise Refused(422, f"expected a whole number from {least} on, got {text[:40]}")
    return int(text)
