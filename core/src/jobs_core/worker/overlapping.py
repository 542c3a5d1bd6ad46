"""A courier for backends whose server can store settlements while the courier decodes the next jobs.

Nothing else differs: no job is reserved earlier, and each settlement is sent at most one reservation later.
"""

from __future__ import annotations

import time

from ..backends.base import Delivery
from .courier import Courier

MANY = 100
"""Settlements for which this pays. Fewer are sent before the next jobs are reserved, as by every courier."""

REFUSED_FOR = 1.0
"""Seconds for which settlements are sent first after a batch that could not be begun: the next ones are mostly like it."""


class OverlappingCourier(Courier):
    """Reserves, sends the settlements of the jobs that ran before, and decodes meanwhile; see `Backend.overlaps`."""

    _settles_first_until = 0.0

    def _settle(self) -> None:
        """Take the answer to what was begun; send the rest, unless that is to be begun when the next jobs have come."""
        if self._settlements.begun:
            self._settlements.end()
        if not self._begins_later():
            super()._settle()

    def _begins_later(self) -> bool:
        """Return whether jobs are about to be reserved, and no settlement is needed before that."""
        now = time.monotonic()
        return (
            len(self._settlements.unsent) >= MANY
            and now >= self._settles_first_until
            and not (self._outage.lasts or self._reserve_request)
            and not (self._reservations.waiting or self._settlements.acknowledging)
            and not (self._settings.keeps_house and now >= self._next_housekeeping)
            and self._wants_jobs(now)
        )

    def _take(self, deliveries: list[Delivery], limit: int, began: float) -> None:
        if len(self._settlements.unsent) >= MANY and not self._settlements.begin():
            self._settles_first_until = time.monotonic() + REFUSED_FOR
        super()._take(deliveries, limit, began)
