"""SIGKILL of the broker between commit and confirm, in the cases of the contract that change what is stored.

All other cases, and a broker embedded in a supervisor, are in broker_contract.py: `make contract-zeromq`.
"""

import pytest

from jobs_core.testing.contract.flow_operators import FlowOperators
from jobs_core.testing.contract.flows import FlowCases
from jobs_core.testing.contract.limits import LimitCases
from jobs_core.testing.contract.operators import Operators
from jobs_core.testing.contract.settling import Settling
from jobs_core.testing.contract.uniqueness import Uniqueness

CHANGES = ("cancel", "discard", "drop", "pause", "purge", "release", "requeue", "resume")
LATER_CHANGES = ("define_limits", "override_limit", "cancel_flow", "retry_flow", "housekeep")


def killed_after(*requests):
    """Return fail points at which a broker dies: the first of each of these requests is committed, and not confirmed."""
    return ",".join(f"broker.{name}.after_commit=kill" for name in requests)


DEATHS = [
    killed_after("push", "push_part"),
    killed_after("reserve", *CHANGES),
    killed_after("settle", "close", *LATER_CHANGES),
]
"""A case's first push, its first reserve or change, and its first settlement or change; the next broker stays alive."""


class TestBrokerThatIsKilled(Settling, Uniqueness, Operators, LimitCases, FlowCases, FlowOperators):
    """A separate broker, over TCP. Only the broker's log tells that it died."""

    @pytest.fixture
    def backend_url(self, service, patient):
        service.revive(DEATHS)
        return service.url
