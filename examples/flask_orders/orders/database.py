"""The stored models."""

from __future__ import annotations

from datetime import date

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The base class of all models."""


db = SQLAlchemy(model_class=Base)


class Product(db.Model):  # type: ignore[name-defined,misc]
    """Something on the shelf."""

    name: Mapped[str] = mapped_column(primary_key=True)
    left: Mapped[int]


class Order(db.Model):  # type: ignore[name-defined,misc]
    """An order of one customer."""

    id: Mapped[int] = mapped_column(primary_key=True)
    product: Mapped[str]
    email: Mapped[str]
    card: Mapped[str]
    state: Mapped[str] = mapped_column(default="taken")
    flow: Mapped[str] = mapped_column(default="")


class Report(db.Model):  # type: ignore[name-defined,misc]
    """How many orders there were in a state at the end of a day."""

    day: Mapped[date] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(primary_key=True)
    orders: Mapped[int]
