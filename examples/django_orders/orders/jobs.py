"""The jobs of the shop. Each may run twice, if a worker dies between the end of a job and its acknowledgement: none minds."""

from datetime import date

from django.db import transaction
from django.db.models import Count, F
from django.utils import timezone

from jobs_core import Flow, FlowHandle, current_job, job

from . import bank
from .models import Order, Product, Report


def enqueue_order(order: Order) -> FlowHandle:
    """Enqueue the flow of an order: charge, pack, tell the customer; or put the product back on the shelf.

    Inside `atomic()`, it is committed with the order.
    """
    with Flow(f"order {order.pk}") as flow:
        paid = flow.add(charge.call(order.pk))
        packed = flow.add(pack.call(order.pk), after=paid)
        flow.add(tell.call(order.pk, paid.result), after=packed)
        flow.add(put_back.call(order.pk), after=paid, when="failed")
    return flow.handle


@job(topic="bank", limits=("bank",), timeout="20s", discard_on=(bank.Refused,), store_result=True)
def charge(order_id: int) -> str:
    """Charge the customer. However many orders arrive, the bank is asked no more often than the limit `bank` says."""
    order = Order.objects.get(pk=order_id)
    return bank.pay(f"order-{order.pk}", order.card)


@job
def pack(order_id: int) -> None:
    run = current_job()
    for number, step in enumerate(("fetch the box", "fetch the product", "close the box"), 1):
        run.progress(number, 3, step)
    Order.objects.filter(pk=order_id).update(state="packed")


@job(topic="mail", retries=8)
def tell(order_id: int, receipt: str) -> None:
    """Tell the customer that the order is on its way; a real shop would send a mail here."""
    order = Order.objects.get(pk=order_id)
    current_job().log(f"to {order.email}: your {order.product_id} is on its way ({receipt})")
    Order.objects.filter(pk=order_id).update(state="sent")


@job
@transaction.atomic
def put_back(order_id: int) -> None:
    """Put the product of an order that was not paid back on the shelf, once."""
    order = Order.objects.select_for_update().get(pk=order_id)
    if order.state != "refused":
        Order.objects.filter(pk=order_id).update(state="refused")
        Product.objects.filter(pk=order.product_id).update(left=F("left") + 1)


@job(cron="0 0 * * *", tz="Europe/Berlin")
def report(day: date | None = None) -> None:
    """Write the report of a day; another run writes the same rows again."""
    counts = Order.objects.values_list("state").annotate(Count("pk"))
    for state, orders in counts:
        Report.objects.update_or_create(day=day or timezone.now().date(), state=state, defaults={"orders": orders})
