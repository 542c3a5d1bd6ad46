"""RabbitMQ keeps the contract, except for features that it lacks. Pairs with a store are in test_contract_beside.py."""

from jobs_core.testing import BackendContract

from .helpers import OnRabbitMQ


class TestRabbitMQ(OnRabbitMQ, BackendContract):
    """On quorum queues, without results."""
