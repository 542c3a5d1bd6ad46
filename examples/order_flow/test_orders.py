"""The orders in a test: `pytest test_orders.py`. `jobs_queue` is a queue in memory; `drain` runs what is enqueued."""

from __future__ import annotations

from orders import buy


def test_an_order_is_paid_packed_and_sent(jobs_queue, capsys):
    order = buy(7, 30, ["tea", "cups"])
    jobs_queue.drain()
    assert capsys.readouterr().out.splitlines() == [
        "order 7: tea is in the box",
        "order 7: cups is in the box",
        "order 7: 30 paid, on its way as track-7",
        "order 7: closed",
    ]
    assert order.status() == "done"


def test_an_order_that_cannot_be_charged_is_reported_and_not_packed(jobs_queue, capsys):
    order = buy(8, 0, ["tea"])
    jobs_queue.drain(raise_errors=False)
    assert capsys.readouterr().out.splitlines() == ["order 8: it needs a human", "order 8: closed"]
    assert order.status() == "failed"
