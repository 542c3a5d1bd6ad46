"""The file in which one machine records up to which time each schedule entry is handled. Losing it does no harm."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec
from msgspec import Struct

from .. import events


class Handled(Struct, frozen=True):
    """The record of one entry: every tick up to `until` (milliseconds) was enqueued, or was missed and is dropped."""

    identity: str
    until: int


class _File(Struct, frozen=True):
    v: int
    entries: dict[str, Handled]


class ScheduleState:
    """The file, which each write replaces; a failed read or write is reported once and does not stop the schedule."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failing = False

    def load(self) -> dict[str, Handled]:
        """Return the stored record; empty if there is no readable file."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_File).entries
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            events.emit(events.ScheduleForgotten(str(self._path), str(error).replace("`", "")))
            return {}

    def save(self, entries: dict[str, Handled]) -> None:
        """Write the record so that it survives a crash of the machine."""
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        try:
            with temporary.open("wb") as file:
                file.write(msgspec.json.encode(_File(1, entries)))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            if not self._failing:
                events.emit(events.ScheduleNotSaved(str(self._path), error.strerror or str(error)))
            self._failing = True
        else:
            self._failing = False
