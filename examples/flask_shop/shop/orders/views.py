"""The views that take orders."""

from __future__ import annotations

from flask import Blueprint, jsonify, request
from flask.typing import ResponseReturnValue

from ..database import Order, db
from .jobs import confirm

orders = Blueprint("orders", __name__)


@orders.post("/orders")
def take() -> ResponseReturnValue:
    """Take an order; the customer does not wait for its confirmation."""
    order = Order(email=request.get_json()["email"])
    db.session.add(order)
    db.session.commit()
    handle = confirm.enqueue(order.id)
    return jsonify(id=order.id, job=handle.id), 202


@orders.get("/orders/<int:order_id>")
def show(order_id: int) -> ResponseReturnValue:
    order = db.get_or_404(Order, order_id)
    return jsonify(id=order.id, state=order.state)
