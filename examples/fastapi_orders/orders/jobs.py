"""The jobs of the shop. Each may run twice, if a worker dies between the end of a job and its acknowledgement: none minds."""

from __future__ import annotations

from datetime import date, datetime, timezone
from typing import Annotated

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from jobs_core import Flow, FlowHandle, current_job, injected, job, provided_by

from . import bank
from .database import Order, Product, Report, session

Session = Annotated[AsyncSession, provided_by(session)]


async def enqueue_order(order: Order, transaction: AsyncSession) -> FlowHandle:
    """Enqueue the flow of an order with the transaction: charge, pack, tell the customer; or put the product back."""
    async with Flow(f"order {order.id}", transaction=transaction) as flow:
        paid = flow.add(charge.call(order.id))
        packed = flow.add(pack.call(order.id), after=paid)
        flow.add(tell.call(order.id, paid.result), after=packed)
        flow.add(put_back.call(order.id), after=paid, when="failed")
    return flow.handle


@job(topic="bank", limits=("bank",), timeout="20s", discard_on=(bank.Refused,), store_result=True)
async def charge(order_id: int, *, session: Session = injected) -> str:
    """Charge the customer. However many orders arrive, the bank is asked no more often than `[limits.bank]` says."""
    order = await session.get_one(Order, order_id)
    return await bank.pay(f"order-{order.id}", order.card)


@job
async def pack(order_id: int, *, session: Session = injected) -> None:
    run = current_job()
    for number, step in enumerate(("fetch the box", "fetch the product", "close the box"), 1):
        run.progress(number, 3, step)
    order = await session.get_one(Order, order_id)
    order.state = "packed"
    await session.commit()


@job(topic="mail", retries=8)
async def tell(order_id: int, receipt: str, *, session: Session = injected) -> None:
    """Tell the customer that the order is on its way; a real shop would send a mail here."""
    order = await session.get_one(Order, order_id)
    current_job().log(f"to {order.email}: your {order.product} is on its way ({receipt})")
    order.state = "sent"
    await session.commit()


@job
async def put_back(order_id: int, *, session: Session = injected) -> None:
    """Put the product of an order that was not paid back on the shelf, once."""
    async with session.begin():
        order = await session.get_one(Order, order_id, with_for_update=True)
        if order.state != "refused":
            order.state = "refused"
            await session.execute(update(Product).where(Product.name == order.product).values(left=Product.left + 1))


@job(cron="0 0 * * *", tz="Europe/Berlin")
async def report(day: date | None = None, *, session: Session = injected) -> None:
    """Write the report of a day; another run writes the same rows again."""
    day = day or datetime.now(timezone.utc).date()
    async with session.begin():
        counts = (await session.execute(select(Order.state, func.count()).group_by(Order.state))).all()
        for state, orders in counts:
            row = insert(Report).values(day=day, state=state, orders=orders)
            await session.execute(row.on_conflict_do_update(index_elements=["day", "state"], set_={"orders": orders}))
