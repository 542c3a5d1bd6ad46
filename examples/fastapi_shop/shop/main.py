"""The application: `uvicorn shop.main:app`, and `jobsctl start` beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from jobs_fastapi import BackgroundJobs, JobsDep, JobsFastAPI

from .database import Base, Order, engine, session
from .jobs import confirm


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the tables, and close the connections at the end; workers run this, too."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
JobsFastAPI(app)

Session = Annotated[AsyncSession, Depends(session)]


class NewOrder(BaseModel):
    email: str


class Taken(BaseModel):
    id: int
    job: str


class State(BaseModel):
    id: int
    state: str


@app.post("/orders", status_code=202)
async def take(new: NewOrder, session: Session, jobs: JobsDep) -> Taken:
    """Take an order; the customer does not wait for its confirmation. The event loop is not blocked meanwhile."""
    order = Order(email=new.email)
    session.add(order)
    await session.commit()
    handle = await jobs.aenqueue(confirm.call(order.id))
    return Taken(id=order.id, job=handle.id)


@app.post("/orders/{order_id}/confirmations", status_code=202)
async def confirm_again(order_id: int, background: BackgroundJobs) -> None:
    """The same in one line: the job is enqueued when the endpoint has returned, before the response is sent."""
    background.add(confirm, order_id)


@app.get("/orders/{order_id}")
async def show(order_id: int, session: Session) -> State:
    order = await session.get(Order, order_id)
    if order is None:
        raise HTTPException(404)
    return State(id=order.id, state=order.state)
