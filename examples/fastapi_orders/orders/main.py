"""The application: `uvicorn orders.main:app`, and `jobsctl start` beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncSession

from jobs_core import FlowHandle
from jobs_fastapi import JobsFastAPI

from . import staff
from .database import Base, Order, Product, engine, session, sessions
from .jobs import enqueue_order


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the tables and fill the shelf, and close the connections at the end; workers run this, too."""
    async with engine.begin() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(4711)"))  # web process and workers start together
        await connection.run_sync(Base.metadata.create_all)
    async with sessions() as session, session.begin():
        if await session.get(Product, "teapot") is None:
            session.add(Product(name="teapot", left=2))
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
JobsFastAPI(app)
staff.add_to(app)

Session = Annotated[AsyncSession, Depends(session)]


class NewOrder(BaseModel):
    product: str
    email: str
    card: str


class Taken(BaseModel):
    id: int
    flow: str


class State(BaseModel):
    id: int
    state: str
    jobs: dict[str, int]


@app.post("/orders", status_code=202)
async def take(new: NewOrder, session: Session) -> Taken:
    """Take an order. If the product is sold out, the rollback takes order and flow along, although the flow comes first."""
    async with session.begin():
        order = Order(product=new.product, email=new.email, card=new.card)
        session.add(order)
        await session.flush()
        order.flow = (await enqueue_order(order, session)).id
        sold = update(Product).where(Product.name == new.product, Product.left > 0).values(left=Product.left - 1)
        if (await session.execute(sold.returning(Product.left))).scalar() is None:
            raise HTTPException(409, f"{new.product} is sold out")
    return Taken(id=order.id, flow=order.flow)


@app.get("/orders/{order_id}")
async def show(order_id: int, session: Session) -> State:
    """Show an order, and how far the flow of its jobs is."""
    order = await session.get(Order, order_id)
    if order is None:
        raise HTTPException(404)
    flow = await FlowHandle.of(order.flow).aprogress()
    return State(id=order.id, state=order.state, jobs={"total": flow.total, "done": flow.done, "dead": flow.dead})
