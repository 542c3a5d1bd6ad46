"""Tests of everything that the backend interface promises.

The whole test file of a backend::

    class TestContract(BackendContract):
        @pytest.fixture
        def backend_url(self, tmp_path):
            return f"mine://{tmp_path}"

The fixture returns the URL of an empty store that nothing else uses. If a feature is missing from `features`, the cases for
it assert the weaker property that holds without it; checks for lost and duplicate jobs are never skipped. To excuse a case,
override it with `@pytest.mark.xfail(reason=...)`.
"""

from __future__ import annotations

from .checkpoints import Checkpoints
from .complete import Completeness
from .concurrency import Concurrency
from .crashes import Crashes
from .documents import DocumentCases
from .fairness import Fairness
from .flow_operators import FlowOperators
from .flows import FlowCases
from .leases import Leases
from .leaving import Leaving
from .letters import LetterCases
from .limited_flows import LimitedFlows
from .limits import LimitCases
from .machine import Machine
from .notes import HistoryCases, NoteCases
from .operators import Operators
from .ordering import Ordering
from .pushing import Pushing
from .rig import Rig
from .settling import Settling
from .statistics import StatisticsCases
from .together import Togetherness
from .trouble import Trouble
from .uniqueness import Uniqueness
from .waiting import Waiting
from .waking import Waking


class BackendContract(
    Pushing,
    Ordering,
    Settling,
    Checkpoints,
    LimitCases,
    Fairness,
    FlowCases,
    FlowOperators,
    LimitedFlows,
    DocumentCases,
    NoteCases,
    HistoryCases,
    StatisticsCases,
    Uniqueness,
    Waiting,
    Waking,
    Leases,
    Leaving,
    Operators,
    LetterCases,
    Concurrency,
    Crashes,
    Trouble,
    Machine,
    Togetherness,
    Completeness,
):
    """The contract as a test class: subclass it, add the fixture `backend_url`, and run pytest. See the module's docstring."""

    takes_clock = False
    """True if the backend uses `BackendOptions.clock`: the cases then move the time instead of waiting."""

    hands_out_at_once = False
    """True if a reserve finds all earlier pushes at once, although `strict_order` is missing: the cases then wait less."""


__all__ = ["BackendContract", "Rig"]
