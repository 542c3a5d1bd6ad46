"""The views that take orders."""

import json

from django.db import transaction
from django.db.models import F
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt

from jobs_core import FlowHandle

from .jobs import enqueue_order
from .models import Order, Product


@csrf_exempt
def take(request: HttpRequest) -> JsonResponse:
    """Take an order. If the product is sold out, the rollback takes order and flow along, although the flow comes first."""
    new = json.loads(request.body)
    with transaction.atomic():
        order = Order.objects.create(product_id=new["product"], email=new["email"], card=new["card"])
        order.flow = enqueue_order(order).id
        order.save(update_fields=["flow"])
        if not Product.objects.filter(pk=order.product_id, left__gt=0).update(left=F("left") - 1):
            transaction.set_rollback(True)
            return JsonResponse({"detail": f"{order.product_id} is sold out"}, status=409)
    return JsonResponse({"id": order.pk, "flow": order.flow}, status=202)


def show(request: HttpRequest, order_id: int) -> JsonResponse:
    """Show an order, and how far the flow of its jobs is."""
    order = get_object_or_404(Order, pk=order_id)
    flow = FlowHandle.of(order.flow).progress()
    jobs = {"total": flow.total, "done": flow.done, "dead": flow.dead}
    return JsonResponse({"id": order.pk, "state": order.state, "jobs": jobs})
