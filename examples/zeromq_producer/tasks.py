"""The worker's side of the jobs of producer.py."""

from jobs_core import job


@job
def greet(whom: str) -> None:
    """Say hello."""
    print(f"hello, {whom}")
