"""The views that take orders."""

from __future__ import annotations

from flask import Blueprint, jsonify, request
from flask.typing import ResponseReturnValue
from sqlalchemy import update

from jobs_core import FlowHandle

from .database import Order, Product, db
from .jobs import enqueue_order

orders = Blueprint("orders", __name__)


@orders.post("/orders")
def take() -> ResponseReturnValue:
    """Take an order. If the product is sold out, the rollback takes order and flow along, although the flow comes first."""
    new = request.get_json()
    order = Order(product=new["product"], email=new["email"], card=new["card"])
    db.session.add(order)
    db.session.flush()
    order.flow = enqueue_order(order).id
    sold = update(Product).where(Product.name == order.product, Product.left > 0).values(left=Product.left - 1)
    if db.session.execute(sold.returning(Product.left)).scalar() is None:
        db.session.rollback()
        return jsonify(detail=f"{new['product']} is sold out"), 409
    db.session.commit()
    return jsonify(id=order.id, flow=order.flow), 202


@orders.get("/orders/<int:order_id>")
def show(order_id: int) -> ResponseReturnValue:
    """Show an order, and how far the flow of its jobs is."""
    order = db.get_or_404(Order, order_id)
    flow = FlowHandle.of(order.flow).progress()
    return jsonify(id=order.id, state=order.state, jobs={"total": flow.total, "done": flow.done, "dead": flow.dead})
