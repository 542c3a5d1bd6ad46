"""The database: the engine is opened by the application's lifespan, in web processes and in workers alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

engine = create_async_engine(f"sqlite+aiosqlite:///{Path(__file__).parent.parent / 'shop.db'}")
sessions = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    """The base of all models."""


class Order(Base):
    """An order of one customer."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    state: Mapped[str] = mapped_column(default="taken")


async def session() -> AsyncIterator[AsyncSession]:
    """Yield the session of one request, or of one job."""
    async with sessions() as session:
        yield session
