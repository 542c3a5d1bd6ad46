"""RabbitMQ keeps the contract; what it lacks is weaker, as `features` says. Pairs are in test_contract_beside.py."""

from jobs_core.testing import BackendContract

from .helpers import OnRabbitMQ


class TestRabbitMQ(OnRabbitMQ, BackendContract):
    """On quorum queues, without results."""
