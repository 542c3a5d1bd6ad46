"""The blueprint of orders. Its jobs are in jobs.py beside it, where the worker looks for them."""

from .views import orders

__all__ = ["orders"]
