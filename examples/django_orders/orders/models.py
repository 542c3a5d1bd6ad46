"""The stored models."""

from django.db import models


class Product(models.Model):
    """Something on the shelf."""

    name = models.CharField(max_length=100, primary_key=True)
    left = models.PositiveIntegerField()


class Order(models.Model):
    """An order of one customer."""

    product = models.ForeignKey(Product, on_delete=models.PROTECT)
    email = models.EmailField()
    card = models.CharField(max_length=20)
    state = models.CharField(max_length=20, default="taken")
    flow = models.CharField(max_length=40, default="")


class Report(models.Model):
    """How many orders there were in a state at the end of a day."""

    day = models.DateField()
    state = models.CharField(max_length=20)
    orders = models.PositiveIntegerField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=["day", "state"], name="one_report"),)
