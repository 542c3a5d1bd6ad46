"""Limits and flows on two supervised machines while workers, housekeepers, supervisors and brokers are killed.

The same rows with 100,000 jobs each are `make torture`.
"""

from __future__ import annotations

import pytest

from ..torture import limits, redis, sqlite, zeromq
from ..torture.stage import endure

BACKENDS = [
    pytest.param(sqlite.supervised, id="sqlite"),
    pytest.param(redis.supervised, id="redis"),
    pytest.param(zeromq.supervised, id="zeromq"),
]


@pytest.mark.parametrize("set_up", BACKENDS)
def test_no_limit_is_exceeded_and_no_slot_is_lost_whatever_is_killed(tmp_path, set_up):
    endure(limits.short_row(set_up), tmp_path, 3000)
