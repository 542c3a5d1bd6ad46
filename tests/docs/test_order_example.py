"""The example of an order flow, in a worker with its courier: what it prints, and that its end is that of the last member."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from jobs_core import App, Config, set_current_app
from jobs_core.backends.memory import forget
from jobs_core.config import Pool
from jobs_core.ids import new_token
from jobs_core.testing import JobsQueue
from jobs_core.worker.main import Worker

EXAMPLE = Path(__file__).parents[2] / "examples" / "order_flow"

ORDERS = {
    7: (30, "done", ["tea is in the box", "cups is in the box", "30 paid, on its way as track-7", "closed"]),
    8: (0, "failed", ["it needs a human", "closed"]),
}


@pytest.fixture
def orders(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield importlib.import_module("orders")
    sys.modules.pop("orders", None)


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_runs_to_its_end_in_a_worker(orders, capsys, order):
    amount, state, lines = ORDERS[order]
    url = f"memory://{new_token()}"
    app = App(Config(backend=url))
    set_current_app(app)
    try:
        handle = orders.buy(order, amount, ["tea", "cups"])
        Worker(app, "default", Pool(), None, drain=True).run()
        assert handle.wait(timeout=5).state == state
    finally:
        set_current_app(None)
        app.close()
        forget(url)
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(f"order {order}: {line}" for line in lines)


def test_the_tests_of_the_example_pass(orders, capsys):
    ours = importlib.import_module("test_orders")
    for test in (
        ours.test_an_order_is_paid_packed_and_sent,
        ours.test_an_order_that_cannot_be_charged_is_reported_and_not_packed,
    ):
        with JobsQueue() as queue:
            test(queue, capsys)
    sys.modules.pop("test_orders")
