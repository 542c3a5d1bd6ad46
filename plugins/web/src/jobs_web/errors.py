"""The error with which an endpoint, or its guard, refuses a request."""

from __future__ import annotations


class Refused(Exception):
    """Raised when a request is refused, with an HTTP status and a sentence for the user."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
