"""Pack arguments and results into bodies, and unpack them, as the configuration says."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from ..config import Config
from ..conversion import json_encoder
from ..errors import PayloadError
from ..message import PACKED_VERSION, VERSION, Body, Message, PackedMessage, encode
from .keys import Keyring

HIDDEN = "(encrypted)"
"""Shown in place of arguments and results that cannot be read here."""


class _PackedResult(Struct, forbid_unknown_fields=True):
    body: Body


_decode_arguments = msgspec.json.Decoder(tuple[list[Any], dict[str, Any]]).decode
_decode_result = msgspec.json.Decoder(_PackedResult).decode
_PACKED_RESULT = b'{"body":'
"""The first bytes of each packed result."""


class Payloads:
    """The way in which one application stores arguments and results. Any thread may use it."""

    def __init__(self, config: Config) -> None:
        self._keys = Keyring(config.encryption_keys)
        self.packs = bool(self._keys)  # if not, nothing is packed here, though it may have to be unpacked

    # -- arguments ---------------------------------------------------------------------------------

    def encode(self, message: Message, encrypts: bool) -> tuple[Message, bytes]:
        """Return a message as it is stored, packed if it needs to be, and its bytes without a signature.

        Raises MessageError for what cannot be written.
        """
        plain = encode(message)
        if isinstance(message, PackedMessage):
            return message, plain
        if not encrypts:
            return message, plain
        packed = self._packed(message)
        return packed, encode(packed)

    def _packed(self, message: Message) -> PackedMessage:
        body = self._body(json_encoder.encode((message.args, message.kwargs)), _of_arguments(message))
        fields = {name: getattr(message, name) for name in Message.__struct_fields__}
        return PackedMessage(**{**fields, "v": PACKED_VERSION, "args": [], "kwargs": {}, "body": body})

    def unpacked(self, message: Message) -> Message:
        """Return a message with its arguments; raise PayloadError if they cannot be read."""
        if not isinstance(message, PackedMessage):
            return message
        data = self._data(message.body, _of_arguments(message))
        try:
            args, kwargs = _decode_arguments(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise PayloadError(f"the body is not a list of args and kwargs: {error}") from None
        fields = {name: getattr(message, name) for name in Message.__struct_fields__}
        return Message(**{**fields, "v": VERSION, "args": args, "kwargs": kwargs})

    # -- results -----------------------------------------------------------------------------------

    def pack_result(self, job_id: str, result: bytes) -> bytes:
        """Return an encoded result as it is stored."""
        return msgspec.json.encode(_PackedResult(self._body(result, _of_result(job_id))))

    def unpack_result(self, job_id: str, stored: bytes) -> bytes:
        """Return a result as it was encoded; raise PayloadError if it cannot be read."""
        if stored.startswith(_PACKED_RESULT):
            try:
                body = _decode_result(stored).body
            except msgspec.MsgspecError as error:
                raise PayloadError(f"the stored result is damaged: {error}") from None
            return self._data(body, _of_result(job_id))
        return stored

    # -- bodies ------------------------------------------------------------------------------------

    def unique_key(self, job: str, key: str) -> str:
        """Return what stands for a unique key: it may consist of arguments."""
        return f"{job}:{self._keys.digest(key)}"

    def _body(self, data: bytes, about: bytes) -> Body:
        kid, data = self._keys.encrypt(data, about)
        return Body(data=data, key=kid)

    def _data(self, body: Body, about: bytes) -> bytes:
        data = body.data
        if body.key is not None:
            data = self._keys.decrypt(body.key, data, about)
        return data


def describe(message: Message) -> dict[str, Any]:
    """Return a message for people who cannot read its body."""
    shown: dict[str, Any] = msgspec.to_builtins(message)
    if isinstance(message, PackedMessage):
        shown["body"] = {name: value for name, value in asdict(message.body).items() if name != "data" and value is not None}
        shown["args"] = shown["kwargs"] = HIDDEN
    return shown


def _of_arguments(message: Message) -> bytes:
    """Return the associated data of a job's arguments: they belong to this job alone."""
    return f"arguments\0{message.id}\0{message.job}".encode()


def _of_result(job_id: str) -> bytes:
    return f"result\0{job_id}".encode()
