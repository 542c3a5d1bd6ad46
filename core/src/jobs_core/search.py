"""The tests that a search makes on jobs: by job, key, text of the arguments, time and error."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from .app import App
from .backends.base import JobRecord
from .errors import MessageError, PayloadError, PayloadStoreUnavailable
from .units import shown_time


class Search(Struct, frozen=True, omit_defaults=True):
    """The tests that a job has to pass. A test that is not given accepts every job."""

    job: str | None = None
    key: str | None = None
    text: str | None = None  # in the arguments as JSON
    error: str | None = None  # in the reason of a dead letter, or in its last error
    since: float | None = None  # when it came into its state, or was pushed
    until: float | None = None

    @property
    def given(self) -> bool:
        """Return whether there is any test."""
        return any(getattr(self, name) is not None for name in self.__struct_fields__)

    def __str__(self) -> str:
        """Return the tests as options of a command; "" if there are none."""
        given = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return " ".join(
            f"--{name} {shown_time(value) if isinstance(value, float) else value}" for name, value in given if value is not None
        )

    def accepts(self, app: App, record: JobRecord) -> bool:
        """Return whether a record passes all tests; one whose arguments cannot be read contains no text."""
        try:
            return self.judges(app, record)
        except (MessageError, PayloadError, PayloadStoreUnavailable):
            return False

    def judges(self, app: App, record: JobRecord) -> bool:
        """Return whether a record passes all tests.

        Raises MessageError, PayloadError or PayloadStoreUnavailable if a test needs what cannot be read.
        """
        at = record.since or record.pushed_at
        if (self.since is not None and at < self.since) or (self.until is not None and at > self.until):
            return False
        if self.key is not None and record.key != self.key:
            return False
        if self.error is not None and self.error.lower() not in _error_of(record).lower():
            return False
        return self._accepts_message(app, record)

    def _accepts_message(self, app: App, record: JobRecord) -> bool:
        if self.job is None and self.text is None:
            return True
        message = app.envelope(record)
        if self.job is not None and self.job not in (message.job, (message.job or "").rpartition(".")[2]):
            return False
        if self.text is None:
            return True
        message = app.payloads.unpacked(message)
        return self.text.lower() in msgspec.json.encode((message.args, message.kwargs)).decode().lower()


def _error_of(record: JobRecord) -> str:
    if not record.errors:
        return record.reason
    error = msgspec.json.decode(record.errors[-1])
    return f"{record.reason}\n{error.get('type')}: {error.get('message')}"


EVERY: Final = Search()
"""The search that accepts every job."""
