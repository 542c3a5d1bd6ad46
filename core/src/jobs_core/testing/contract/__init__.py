"""The meaning of the backend interface, in executable form.

A backend's whole test file::

    class TestContract(BackendContract):
        @pytest.fixture
        def backend_url(self, tmp_path):
            return f"mine://{tmp_path}"

The fixture returns the URL of an empty store that nothing else uses. A backend leaves features that it lacks out of
`features`: the cases bound to a feature then assert the weaker property that holds without it, and never skip a check
on loss or duplicates. A case may be excused only with `@pytest.mark.xfail(reason=...)` on an override.
"""

from __future__ import annotations

from .complete import Completeness
from .concurrency import Concurrency
from .crashes import Crashes
from .leases import Leases
from .leaving import Leaving
from .machine import Machine
from .operators import Operators
from .ordering import Ordering
from .pushing import Pushing
from .rig import Rig
from .settling import Settling
from .trouble import Trouble
from .uniqueness import Uniqueness
from .waiting import Waiting
from .waking import Waking


class BackendContract(
    Pushing,
    Ordering,
    Settling,
    Uniqueness,
    Waiting,
    Waking,
    Leases,
    Leaving,
    Operators,
    Concurrency,
    Crashes,
    Trouble,
    Machine,
    Completeness,
):
    """The contract as a test class: subclass it, give it the fixture `backend_url`, and run pytest. See the module."""

    takes_clock = False
    """True if the backend honours `BackendOptions.clock`: time then passes when the test says so."""

    hands_out_at_once = False
    """True if a reserve immediately finds all earlier pushes, for a backend without `strict_order`: cases then wait less."""


__all__ = ["BackendContract", "Rig"]
