"""The jobs of the shop. Each may run twice, if a worker dies between the end of a job and its acknowledgement: none minds."""

from __future__ import annotations

from datetime import date, datetime, timezone

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from jobs_core import Flow, FlowHandle, current_job, job

from . import bank
from .database import Order, Product, Report, db


def enqueue_order(order: Order) -> FlowHandle:
    """Enqueue the flow of an order with the transaction: charge, pack, tell the customer; or put the product back."""
    with Flow(f"order {order.id}", transaction=db.session) as flow:
        paid = flow.add(charge.call(order.id))
        packed = flow.add(pack.call(order.id), after=paid)
        flow.add(tell.call(order.id, paid.result), after=packed)
        flow.add(put_back.call(order.id), after=paid, when="failed")
    return flow.handle


@job(topic="bank", limits=("bank",), timeout="20s", discard_on=(bank.Refused,), store_result=True)
def charge(order_id: int) -> str:
    """Charge the customer. However many orders arrive, the bank is asked no more often than `[limits.bank]` says."""
    order = db.session.get_one(Order, order_id)
    return bank.pay(f"order-{order.id}", order.card)


@job
def pack(order_id: int) -> None:
    run = current_job()
    for number, step in enumerate(("fetch the box", "fetch the product", "close the box"), 1):
        run.progress(number, 3, step)
    db.session.get_one(Order, order_id).state = "packed"
    db.session.commit()


@job(topic="mail", retries=8)
def tell(order_id: int, receipt: str) -> None:
    """Tell the customer that the order is on its way; a real shop would send a mail here."""
    order = db.session.get_one(Order, order_id)
    current_job().log(f"to {order.email}: your {order.product} is on its way ({receipt})")
    order.state = "sent"
    db.session.commit()


@job
def put_back(order_id: int) -> None:
    """Put the product of an order that was not paid back on the shelf, once."""
    order = db.session.get_one(Order, order_id, with_for_update=True)
    if order.state != "refused":
        order.state = "refused"
        db.session.execute(update(Product).where(Product.name == order.product).values(left=Product.left + 1))
    db.session.commit()


@job(cron="0 0 * * *", tz="Europe/Berlin")
def report(day: date | None = None) -> None:
    """Write the report of a day; another run writes the same rows again."""
    day = day or datetime.now(timezone.utc).date()
    for state, orders in db.session.execute(select(Order.state, func.count()).group_by(Order.state)).all():
        row = insert(Report).values(day=day, state=state, orders=orders)
        db.session.execute(row.on_conflict_do_update(index_elements=["day", "state"], set_={"orders": orders}))
    db.session.commit()
