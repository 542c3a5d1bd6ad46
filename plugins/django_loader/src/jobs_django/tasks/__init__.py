"""Django's own task framework (`django.tasks`, Django 6.0 on) on the workers of `jobs`."""

from .backend import TasksBackend
from .definition import JobsTask, adopt

__all__ = ["JobsTask", "TasksBackend", "adopt"]
