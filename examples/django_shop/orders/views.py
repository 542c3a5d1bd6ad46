"""The views that take orders."""

import json

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt

from .jobs import confirm
from .models import Order


@csrf_exempt
@transaction.atomic
def take(request: HttpRequest) -> JsonResponse:
    """Take an order. Its confirmation is enqueued when the order is committed, and never for one that is rolled back."""
    order = Order.objects.create(email=json.loads(request.body)["email"])
    handle = confirm.enqueue(order.pk)
    return JsonResponse({"id": order.pk, "job": handle.id}, status=202)


def show(request: HttpRequest, order_id: int) -> JsonResponse:
    order = get_object_or_404(Order, pk=order_id)
    return JsonResponse({"id": order.pk, "state": order.state})
