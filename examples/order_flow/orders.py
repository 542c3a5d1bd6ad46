"""An order as a flow: charge and pack, then send, then tell the customer; if anything fails for good, tell us."""

from __future__ import annotations

from dataclasses import dataclass

from jobs_core import Discard, Flow, FlowHandle, current_job, ended, job


@dataclass
class Receipt:
    order: int
    amount: int


@job(store_result=True)
def charge(order: int, amount: int) -> Receipt:
    """Charge the customer."""
    if amount <= 0:
        raise Discard("nothing to charge")
    return Receipt(order, amount)


@job
def pack(order: int, items: list[str]) -> None:
    """Have each item fetched; what waits for the stage waits for these jobs, too."""
    flow = current_job().flow
    assert flow is not None
    for item in items:
        flow.add(fetch.call(order, item))


@job
def fetch(order: int, item: str) -> None:
    print(f"order {order}: {item} is in the box")


@job(store_result=True)
async def send(order: int) -> str:
    """Hand the box over and return its tracking number."""
    return f"track-{order}"


@job
def thank(receipt: Receipt, tracking: str) -> None:
    print(f"order {receipt.order}: {receipt.amount} paid, on its way as {tracking}")


@job
def report(order: int) -> None:
    print(f"order {order}: it needs a human")


@job
def close(order: int) -> None:
    print(f"order {order}: closed")


def buy(order: int, amount: int, items: list[str]) -> FlowHandle:
    """Enqueue an order; nothing is enqueued if this raises."""
    with Flow(f"order {order}", headers={"order": str(order)}) as flow:
        paid = flow.add(charge.call(order, amount))
        flow.add(pack.call(order, items), after=paid, stage="box")
        sent = flow.add(send.call(order), after="box")
        flow.add(thank.call(paid.result, sent.result))
        flow.add(report.call(order), after=flow.all, when="failed")
        flow.add(close.call(order), after=ended(flow.all))
    return flow.handle
