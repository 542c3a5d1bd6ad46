"""The stored models."""

from django.db import models


class Order(models.Model):
    """An order of one customer."""

    email = models.EmailField()
    state = models.CharField(max_length=20, default="taken")
