"""Read and write the most frequent frames ourselves: published messages, their confirms, and deliveries.

pika creates a dozen objects for each message, which is most of a worker's CPU time for a short job. pika gets all other
frames, one at a time. The format is that of AMQP 0-9-1, chapter 4: type, channel, size, payload, end.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from typing import Protocol

from pika.spec import BasicProperties

OURS = "jobs"
"""The `app_id` of our own messages."""

PERSISTENT = 2

_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_END = 0xCE
_PUBLISH, _DELIVER, _ACK = 0x003C0028, 0x003C003C, 0x003C0050
_BASIC = 60
_MANDATORY = 1

_frame = struct.Struct(">BHI")
_number = struct.Struct(">I")
_delivered = struct.Struct(">Q?")
_ack = struct.Struct(">BHIIQ?B")  # a whole frame: method, tag, whether it includes all earlier tags
_content = struct.Struct(">BHIHHQ")  # a header frame up to its properties: class 60, weight 0, size of the body
_CONTENT_SIZE = _content.size - _frame.size

_PLAIN = (
    BasicProperties.FLAG_CONTENT_TYPE
    | BasicProperties.FLAG_DELIVERY_MODE
    | BasicProperties.FLAG_MESSAGE_ID
    | BasicProperties.FLAG_TIMESTAMP
    | BasicProperties.FLAG_APP_ID
)
_PLAIN_HEAD = b"%b\x10application/json\x02" % struct.pack(">H", _PLAIN)
_PLAIN_TAIL = b"\x04jobs"
_stamp = struct.Struct(">Q")


class Plain(BasicProperties):
    """Properties of a newly pushed job. The part that all such jobs share is written and read as one piece."""

    content_type = "application/json"
    delivery_mode = PERSISTENT
    app_id = OURS
    content_encoding = headers = priority = correlation_id = reply_to = expiration = type = user_id = cluster_id = None

    def __init__(self, message_id: str, timestamp: int) -> None:
        self.message_id = message_id
        self.timestamp = timestamp


def _properties(data: bytes, start: int, end: int) -> BasicProperties:
    """Return the properties in a content header."""
    if data.startswith(_PLAIN_HEAD, start):
        text = start + len(_PLAIN_HEAD) + 1
        after = text + data[text - 1]
        if after + _stamp.size + len(_PLAIN_TAIL) == end and data.endswith(_PLAIN_TAIL, start, end):
            with contextlib.suppress(UnicodeDecodeError):
                return Plain(data[text:after].decode(), _stamp.unpack_from(data, after)[0])
    return BasicProperties().decode(data[start:end])


def _encoded(properties: BasicProperties) -> bytes:
    if type(properties) is Plain and properties.priority is None and properties.headers is None:
        message_id = properties.message_id.encode()
        if len(message_id) < 256:
            stamp = _stamp.pack(properties.timestamp)
            return b"%b%c%b%b%b" % (_PLAIN_HEAD, len(message_id), message_id, stamp, _PLAIN_TAIL)
    return b"".join(properties.encode())


def publish_method(channel: int, exchange: str, key: str) -> bytes:
    """Return the first frame of a message, with its destination. The message is returned if there is no queue for it."""
    to, by = exchange.encode(), key.encode()
    payload = b"%b\0\0%c%b%c%b%c" % (_number.pack(_PUBLISH), len(to), to, len(by), by, _MANDATORY)
    return _frame.pack(_METHOD, channel, len(payload)) + payload + bytes([_END])


def ack(channel: int, tag: int, multiple: bool = False) -> bytes:
    """Return the frame that acknowledges a delivery; with `multiple`, also all deliveries before it."""
    return _ack.pack(_METHOD, channel, _number.size + _delivered.size, _ACK, tag, multiple, _END)


def content(channel: int, properties: BasicProperties, body: bytes, largest: int) -> bytes:
    """Return all further frames of a message: its header, and its body in pieces of at most `largest` bytes."""
    encoded = _encoded(properties)
    size = len(body)
    head = _content.pack(_HEADER, channel, _CONTENT_SIZE + len(encoded), _BASIC, 0, size)
    if 0 < size <= largest:
        return b"%b%b\xce%b%b\xce" % (head, encoded, _frame.pack(_BODY, channel, size), body)
    pieces = [head, encoded, b"\xce"]
    for start in range(0, size, largest):
        piece = body[start : start + largest]
        pieces += [_frame.pack(_BODY, channel, len(piece)), piece, b"\xce"]
    return b"".join(pieces)


class Receiver(Protocol):
    """The receiver of deliveries and confirms."""

    def delivered(self, channel: int, tag: int, again: bool, consumer: str, properties: BasicProperties, body: bytes) -> None:
        """Accept a complete delivery."""

    def confirmed(self, channel: int, tag: int, multiple: bool) -> bool:
        """Accept a confirm of published messages; return False if pika handles the confirms of this channel."""


_Whole = tuple[int, int, bool, str, BasicProperties, bytes]
"""The arguments of Receiver.delivered."""


class _Delivery:
    """A delivery whose content is incomplete."""

    __slots__ = ("again", "consumer", "left", "pieces", "properties", "tag")

    def __init__(self, tag: int, again: bool, consumer: str) -> None:
        self.tag = tag
        self.again = again
        self.consumer = consumer
        self.properties: BasicProperties | None = None
        self.left = 0
        self.pieces: list[bytes] = []


class Reader:
    """Parses the bytes of a connection.

    `others` is called with every frame that is left to pika. It returns False if that frame has ended the connection; the
    rest must not be read then.
    """

    def __init__(self, receiver: Receiver, others: Callable[[bytes], bool]) -> None:
        self._receiver = receiver
        self._others = others
        self._rest = b""
        self._coming: dict[int, _Delivery] = {}

    def feed(self, data: bytes) -> int:
        """Process received data; return how many bytes were frames that were not left to pika."""
        if self._rest:
            data = self._rest + data
        at, end, ours = 0, len(data), 0
        try:
            while end - at > _frame.size:
                kind, channel, size = _frame.unpack_from(data, at)
                begin, start, after = at, at + _frame.size, at + _frame.size + size + 1
                if kind > _HEARTBEAT or (after <= end and data[after - 1] != _END):
                    after = end  # not AMQP: leave it to pika, which raises an error
                elif after > end:
                    break
                at = after
                if kind == _METHOD and _number.unpack_from(data, start)[0] == _DELIVER:
                    at, whole = self._delivery(data, channel, start, after)
                    if whole is not None:
                        self._receiver.delivered(*whole)
                elif not self._read(data, kind, channel, start, after - 1):
                    if not self._others(data[begin:after]):
                        at = end
                    continue
                ours += at - begin
        finally:
            self._rest = data[at:]
        return ours

    def _delivery(self, data: bytes, channel: int, start: int, after: int) -> tuple[int, _Whole | None]:
        """Return where the parsed part of a delivery ends, and the delivery if it is complete; else keep its parts."""
        text = start + 5
        at = text + data[start + 4]
        consumer = data[text:at].decode()
        tag, again = _delivered.unpack_from(data, at)
        with contextlib.suppress(struct.error, IndexError):  # incomplete
            header, same, size, _, _, length = _content.unpack_from(data, after)
            properties, body = after + _content.size, after + _frame.size + size + 1
            kind, likewise, size = _frame.unpack_from(data, body)
            end = body + _frame.size + size
            whole = header == _HEADER and kind == _BODY and same == likewise == channel and size == length
            if whole and data[body - 1] == data[end] == _END:
                said = _properties(data, properties, body - 1)
                return end + 1, (channel, tag, again, consumer, said, data[body + _frame.size : end])
        self._coming[channel] = _Delivery(tag, again, consumer)
        return after, None

    def _read(self, data: bytes, kind: int, channel: int, start: int, end: int) -> bool:
        """Process a frame; return whether it is one that we read ourselves."""
        if kind == _METHOD:
            if _number.unpack_from(data, start)[0] != _ACK:
                return False
            tag, multiple = _delivered.unpack_from(data, start + 4)
            return self._receiver.confirmed(channel, tag, multiple)
        coming = self._coming.get(channel)
        if coming is None:
            return False
        if kind == _HEADER:
            (coming.left,) = _stamp.unpack_from(data, start + 4)
            coming.properties = _properties(data, start + _CONTENT_SIZE, end)
        elif kind == _BODY:
            coming.pieces.append(data[start:end])
            coming.left -= end - start
        else:
            return False
        if coming.left <= 0 and coming.properties is not None:
            del self._coming[channel]
            body = b"".join(coming.pieces)
            self._receiver.delivered(channel, coming.tag, coming.again, coming.consumer, coming.properties, body)
        return True
