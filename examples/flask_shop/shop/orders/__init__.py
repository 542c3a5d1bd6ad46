"""The blueprint of orders. The worker finds its jobs in jobs.py beside it."""

from .views import orders

__all__ = ["orders"]
