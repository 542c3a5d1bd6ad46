"""Take the codec of jobs-rabbitmq's transport away: pika then writes and reads every frame, on our loop. Act on import."""

from __future__ import annotations

from jobs_rabbitmq.transport import own
from jobs_rabbitmq.transport.connection import OpenChannel


def _feed(self: own.Reader, data: bytes) -> int:
    self._others(data)
    return 0


def _create_channel(connection: own.OwnConnection, number: int, opened: object) -> OpenChannel:
    return OpenChannel(connection, number, opened)


own.Reader.feed = _feed  # type: ignore[method-assign]
own.OwnConnection._create_channel = _create_channel  # type: ignore[assignment,method-assign]
