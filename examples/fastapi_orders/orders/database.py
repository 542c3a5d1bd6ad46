"""The database of the shop: the one in which its jobs are stored."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import date

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

URL = os.environ.get("JOBS_BACKEND", "postgresql://localhost/shop")
engine = create_async_engine(URL.replace("postgresql://", "postgresql+psycopg://", 1))
sessions = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    """The base of all models."""


class Product(Base):
    """Something on the shelf."""

    __tablename__ = "products"

    name: Mapped[str] = mapped_column(primary_key=True)
    left: Mapped[int]


class Order(Base):
    """An order of one customer."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    product: Mapped[str]
    email: Mapped[str]
    card: Mapped[str]
    state: Mapped[str] = mapped_column(default="taken")
    flow: Mapped[str] = mapped_column(default="")


class Report(Base):
    """How many orders there were in each state at the end of a day."""

    __tablename__ = "reports"

    day: Mapped[date] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(primary_key=True)
    orders: Mapped[int]


async def session() -> AsyncIterator[AsyncSession]:
    """Yield the session of one request, or of one job."""
    async with sessions() as session:
        yield session
