"""Django's own task framework (`django.tasks`, from Django 6.0 on) on our workers."""

from .backend import TasksBackend
from .definition import JobsTask, adopt

__all__ = ["JobsTask", "TasksBackend", "adopt"]
