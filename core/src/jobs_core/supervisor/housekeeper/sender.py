"""Send alerts to one channel from a bounded queue, on a thread that exists only while there are alerts to send."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ... import events
from ...boundary import text_of, told

if TYPE_CHECKING:
    from ...alert_channels.base import AlertChannel

PATIENCE = 5.0
"""Seconds that a channel may take for one alert."""

_GRACE = 1.0
_SHORTEST_SECRET = 6


class Sender:
    """The sender of one channel's alerts, one after another. Of the waiting alerts, it keeps only the newest of each topic.

    The housekeeper's loop calls `send`, `check` and `wait`; only `wait` waits for the channel.
    """

    def __init__(self, name: str, channel: AlertChannel, settings: Mapping[str, Any]) -> None:
        self.name = name
        self._channel = channel
        self._secrets = secrets(settings)
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[str, str, dict[str, Any]]] = {}  # topic: title, text, facts
        self._thread: threading.Thread | None = None
        self._began = 0.0  # monotonic: when sending the current alert began
        self._failing = False

    def send(self, topic: str, title: str, text: str, facts: dict[str, Any]) -> None:
        """Queue an alert."""
        with self._lock:
            self._waiting.pop(topic, None)
            self._waiting[topic] = (title, text, facts)
            if self._thread is None:
                self._began = time.monotonic()
                self._thread = threading.Thread(target=self._work, name=f"jobs-alert-{self.name}", daemon=True)
                self._thread.start()

    def check(self) -> None:
        """Log that the channel hangs, if it does; called about once a second."""
        with self._lock:
            hangs = self._thread is not None and time.monotonic() - self._began > PATIENCE + _GRACE
        if hangs:
            self._failed(f"did not return within {PATIENCE:g} s")

    def wait(self, patience: float) -> bool:
        """Wait until all alerts are sent, for `patience` seconds at most; return whether they are."""
        thread = self._thread
        if thread is not None:
            thread.join(patience)
        return self._thread is None

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                alert = self._waiting.pop(next(iter(self._waiting)))
                self._began = time.monotonic()
            try:
                self._channel.send(*alert)
            except BaseException as error:  # a plugin may raise anything: the thread must end properly
                self._failed(text_of(error) if issubclass(type(error), ConnectionError) else told(error))
            else:
                self._succeeded()

    def _failed(self, error: str) -> None:
        with self._lock:
            told, self._failing = self._failing, True
        if not told:  # once in each outage
            events.emit(events.AlertNotSent(self.name, hide(error, self._secrets)))

    def _succeeded(self) -> None:
        with self._lock:
            failing, self._failing = self._failing, False
        if failing:
            events.emit(events.AlertsSentAgain(self.name))


def secrets(settings: Mapping[str, Any]) -> list[str]:
    """Return every string in a channel's settings that must not be shown: URLs have tokens in their path and query."""
    found: set[str] = set()
    for key, value in settings.items():
        if key == "kind":
            continue
        if isinstance(value, Mapping):
            found.update(secrets(value))
        elif isinstance(value, str):
            found.add(value)
            if "://" in value:
                found.update(_parts(value))
    return sorted((text for text in found if len(text) >= _SHORTEST_SECRET), key=len, reverse=True)


def _parts(url: str) -> list[str]:
    try:
        parts = urlsplit(url)
    except ValueError:
        return []
    return [parts.path, parts.query, parts.password or "", *parts.query.replace("=", "&").split("&"), *parts.path.split("/")]


def hide(text: str, secrets: list[str]) -> str:
    """Return `text` with the secrets replaced."""
    for secret in secrets:
        text = text.replace(secret, "…")
    return text
