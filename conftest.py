"""Settings for all tests, of the core and of plugins: Hypothesis on a busy machine, compiled modules, RabbitMQ nodes that many
tests share, and the order in which `pytest -n 4 --dist loadfile` distributes files."""

from __future__ import annotations

import compileall
import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from jobs_core.testing.services.rabbitmq import RabbitMQNode

BUSY = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("jobs", max_examples=40, derandomize=True, **BUSY)
settings.register_profile("search", max_examples=500, **BUSY)
settings.load_profile(os.environ.get("JOBS_HYPOTHESIS", "jobs"))
"""Every run tries the same examples. `make torture` looks for others, and for many more."""

VHOSTS_AT_ONCE = 30

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts background processes
    signal.signal(signal.SIGINT, signal.default_int_handler)


# -- compiled modules ------------------------------------------------------------------------------

ROOT = Path(__file__).parent
writes_none, sys.dont_write_bytecode = sys.dont_write_bytecode, False


def pytest_configure(config: pytest.Config) -> None:
    """Compile the product once, even where the environment forbids it: each process that a test starts imports it."""
    if writes_none and not hasattr(config, "workerinput"):
        for source in (ROOT / "core" / "src", *ROOT.glob("plugins/*/src")):
            compileall.compile_dir(source, quiet=2)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep the compiled tests for the next run: compiling them takes two thirds of the CPU time of a collection.

    The garbage collector looks at none of the thousands of tests, now or later. Modules that tests write are compiled as the
    environment has it.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        sys.dont_write_bytecode = writes_none
        gc.collect()
        gc.freeze()
        gc.enable()


# -- RabbitMQ --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def rabbitmq_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQNode]:
    """Run the node that all tests of this process share: it boots for seconds.

    With one scheduler that does not wait busily, it needs a third less CPU time.
    """
    with RabbitMQNode(tmp_path_factory.mktemp("rabbitmq"), erlang="+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none") as node:
        yield node


@pytest.fixture(scope="session")
def _vhosts(rabbitmq_node: RabbitMQNode) -> Iterator[str]:
    """Yield new virtual hosts, created in batches; used ones are deleted."""

    def fresh() -> Iterator[str]:
        used: list[str] = []
        while True:
            made = rabbitmq_node.make_vhosts(VHOSTS_AT_ONCE, instead_of=used)
            yield from made
            used = made

    return fresh()


@pytest.fixture
def rabbitmq_url(rabbitmq_node: RabbitMQNode, _vhosts: Iterator[str]) -> str:
    """Return the URL of an empty virtual host."""
    return rabbitmq_node.url(next(_vhosts))


# -- files on several processes --------------------------------------------------------------------

TOGETHER = {
    "contracts on RabbitMQ": ("plugins/rabbitmq_backend/tests/",),
    "faults on RabbitMQ": (
        "tests/faults/test_rabbitmq",
        "tests/faults/test_enqueue_timeout.py",
        "plugins/web/tests/test_backends.py",
    ),
}
"""Prefixes of test files that one process runs: each process has its own RabbitMQ node, which takes seven seconds of CPU
time to boot."""

FIRST = [
    "faults on RabbitMQ",
    "contracts on RabbitMQ",
    "tests/docs/test_shell_blocks.py",
    "tests/faults/test_together.py",
    "tests/faults/test_postgres.py",
    "plugins/web/tests/test_browser.py",
    "plugins/postgres_backend/tests/test_contract.py",
    "plugins/redis_backend/tests/test_contract.py",
    "tests/faults/test_redis.py",
    "tests/faults/test_webhooks.py",
    "tests/docs/test_shops.py",
    "tests/packaging/test_wheels.py",
    "plugins/zeromq_backend/tests/test_contract.py",
    "tests/docs/test_how_to_pages.py",
    "tests/contract/test_sqlite.py",
    "plugins/sentry/tests/test_worker.py",
    "tests/faults/test_promises.py",
    "tests/faults/test_zeromq.py",
    "tests/docs/test_site.py",
    "tests/typing/test_typing.py",
    "tests/deploy/test_compose_servers.py",
    "tests/docs/test_tutorial.py",
    "tests/contract/test_mutants.py",
    "tests/packaging/test_new_plugin.py",
    "tests/supervisor/test_dead_actions.py",
    "plugins/web/tests/test_browser_actions.py",
    "plugins/web/tests/test_api_operating.py",
    "plugins/web/tests/test_browser_trouble.py",
    "plugins/redis_backend/tests/test_flows.py",
    "tests/supervisor/test_dashboard.py",
    "plugins/django_loader/tests/test_transactions.py",
    "tests/typing/test_pyright.py",
    "plugins/postgres_backend/tests/test_plans.py",
    "tests/supervisor/test_resumable.py",
    "plugins/redis_backend/tests/test_history.py",
    "plugins/redis_backend/tests/test_flows_in_trouble.py",
    "plugins/postgres_backend/tests/test_outbox_faults.py",
    "plugins/postgres_backend/tests/test_flows.py",
    "tests/contract/test_beside.py",
    "tests/supervisor/test_machines.py",
    "tests/supervisor/test_top_acts.py",
    "tests/supervisor/test_broker.py",
    "tests/supervisor/test_reload.py",
    "tests/supervisor/test_lifecycle.py",
    "plugins/web/tests/test_command.py",
    "plugins/redis_backend/tests/test_model.py",
    "plugins/postgres_backend/tests/test_outbox.py",
    "tests/supervisor/test_pools.py",
    "tests/supervisor/test_housekeeping.py",
    "plugins/postgres_backend/tests/test_idle.py",
    "plugins/web/tests/test_api_killed.py",
    "tests/supervisor/test_webhooks.py",
    "tests/unit/supervisor/log/test_full_speed.py",
    "tests/unit/test_sqlite_flows.py",
    "tests/supervisor/test_hostile.py",
    "tests/supervisor/test_looking.py",
    "tests/faults/test_zeromq_machine.py",
    "plugins/zeromq_backend/tests/test_killed.py",
    "plugins/django_loader/tests/test_connections.py",
    "plugins/django_loader/tests/test_project.py",
    "tests/supervisor/test_births.py",
    "tests/supervisor/test_repair.py",
    "tests/supervisor/test_scaling.py",
    "plugins/flask_loader/tests/test_worker.py",
    "tests/faults/test_schedule.py",
    "tests/faults/test_redis_supervised.py",
    "tests/faults/test_redis_clocks.py",
    "tests/supervisor/test_chaos.py",
    "tests/supervisor/test_suspects.py",
]
"""Test files that take longest: they begin first, so that none is left alone at the end. The others: most tests first."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Set the order of `--dist loadfile`."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class LongestFirst(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            for name, begins in TOGETHER.items():
                if nodeid.startswith(begins):
                    return name
            return str(super()._split_scope(nodeid))

        def _assign_work_unit(self, node: Any) -> None:
            for name in reversed(FIRST):
                if name in self.workqueue:
                    self.workqueue.move_to_end(name, last=False)
            super()._assign_work_unit(node)

    return LongestFirst(config, log)
