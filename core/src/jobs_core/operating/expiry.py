"""Dead letters that have expired: a retry does not extend `expires`, which may be signed."""

from __future__ import annotations

from typing import Final

from ..backends.base import Outcome

EXPIRED: Final = Outcome.EXPIRED.value
"""The reason that workers give of a dead letter that was not started in time."""

GIVE_UP_EXPIRED: Final = (
    "a retry does not extend its time, so it would expire again at once: enqueue the job anew, and drop the dead letter"
)
"""What to do about such a dead letter."""
