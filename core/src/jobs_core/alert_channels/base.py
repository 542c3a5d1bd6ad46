"""The interface of an alert channel."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, TypeAlias


class AlertChannel(abc.ABC):
    """Sends an alert to a place where people see it."""

    @abc.abstractmethod
    def send(self, title: str, text: str, facts: dict[str, Any]) -> None:
        """Deliver one alert within 5 seconds.

        Called by: the housekeeper, on a thread of its own. Blocks: at most 5 s. Raises: anything; it is logged.
        """


AlertChannelFactory: TypeAlias = "Callable[[dict[str, Any]], AlertChannel]"
