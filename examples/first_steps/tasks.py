"""The README's application: one job."""

from jobs_core import job


@job(topic="email", retries=5, timeout=30)
def send_email(to: str, subject: str) -> None:
    """Pretend to send a mail."""
    print(f"to {to}: {subject}")
