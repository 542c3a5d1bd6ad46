"""The names of `jobs_core.runs.context` that plugins may import from here."""

from ..runs.context import JobContext, RunOutcome, WorkerInfo, current_job

__all__ = ["JobContext", "RunOutcome", "WorkerInfo", "current_job"]
