"""The error with which an endpoint, or its guard, refuses a request."""

from __future__ import annotations

import math


class Refused(Exception):
    """Raised when a request is refused, with an HTTP status and a sentence for the user."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class TooMany(Refused):
    """Raised when there were too many wrong tokens: the answer says when to try again, and no audit line tells of it."""

    def __init__(self, text: str, wait: float) -> None:
        self.wait = max(1, math.ceil(wait))  # seconds
        super().__init__(429, f"{text}: try again in {self.wait} s")
