"""Our backend in place of Django's two: one whose tasks wait, and one that has a worker run each at once.

Django's tests read `results` of its dummy backend, and `clear` them; nothing else is added.
"""

from __future__ import annotations

import threading
from typing import Any

from django.tasks import Task, TaskResult

from jobs_core import App, current_app, load_config, set_current_app
from jobs_core.backends.base import State
from jobs_core.config import Pool
from jobs_core.worker.main import Worker
from jobs_django.tasks import TasksBackend


def start_anew() -> None:
    """Start with an empty queue, whose jobs are kept in memory."""
    from jobs_core.ids import new_token

    set_current_app(App(load_config(settings={"backend": f"memory://{new_token()}"})))


start_anew()


class Queued(TasksBackend):
    """The replacement of DummyBackend."""

    @property
    def results(self) -> list[TaskResult]:
        def waiting(backend: Any) -> list[str]:
            return [record.id for topic in backend.topics() for record in backend.browse(topic, State.READY, 1000)]

        return [self.get_result(job_id) for job_id in current_app().operate(waiting)]

    def clear(self) -> None:
        start_anew()


class Immediate(TasksBackend):
    """The replacement of ImmediateBackend: a worker runs everything before the result is read."""

    def enqueue(self, task: Task, args: Any, kwargs: Any) -> TaskResult:
        result = super().enqueue(task, args, kwargs)
        app = current_app()
        worker = Worker(app, "pool", Pool(topics=[task.queue_name], mode="threads", concurrency=1), None, drain=True)
        thread = threading.Thread(target=worker.run)
        thread.start()
        thread.join()
        return self.get_result(result.id)
