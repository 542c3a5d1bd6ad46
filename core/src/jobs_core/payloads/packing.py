"""Pack arguments and results into bodies, and unpack them, as the configuration says."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace

from ..config import Config
from ..conversion import json_encoder
from ..errors import ConfigError, MessageTooLarge, PayloadError, PayloadStoreUnavailable, PluginError
from ..message import PACKED_RESULTS_VERSION, PACKED_VERSION, VERSION, Body, Message, PackedMessage, encode, unsigned
from .codecs import PayloadCodec, decompressed
from .keys import ENCRYPTION_OVERHEAD, Keyring

if TYPE_CHECKING:
    from .discarding import Discarder
    from .store import PayloadStore

HIDDEN = "(encrypted)"
"""Shown in place of arguments and results that cannot be read here."""


OF_ANOTHER_JOB = "the body names a blob that belongs to another job"


class _PackedResult(Struct, forbid_unknown_fields=True):
    body: Body


_decode_arguments = msgspec.json.Decoder(tuple[list[Any], dict[str, Any]]).decode
_decode_result = msgspec.json.Decoder(_PackedResult).decode
_PACKED_RESULT = b'{"body":'
"""The first bytes of each packed result."""


class Payloads:
    """The way in which one application stores arguments and results. Any thread may use it.

    `find_codec` returns the codec of a name that the configuration gives under a key, or raises an error of ours.
    """

    def __init__(self, config: Config, find_codec: Callable[[str, str], PayloadCodec]) -> None:
        self._keys = Keyring(config.encryption_keys)
        self._settings = config.payloads
        self._find_codec = find_codec
        self._codecs: dict[str, PayloadCodec] = {}
        self._above = sys.maxsize if config.payloads.compress is None else int(config.payloads.compress_above)
        self.store: PayloadStore | None = None
        self.discarder: Discarder | None = None
        self._stored_above = sys.maxsize
        if config.payloads.url is not None:
            from .discarding import Discarder  # late, as everywhere in this file: most applications have no store
            from .store import open_store

            self.store = open_store(config.payloads.url, float(config.enqueue_timeout))
            self.discarder = Discarder(self.store)
            self._stored_above = int(config.payloads.above)
        self.packs: bool = self.store is not None or bool(self._keys) or config.payloads.compress is not None
        """If not, nothing is packed here, though it may have to be unpacked."""

    def check(self) -> None:
        """Raise ConfigError or PluginError if the configuration names a codec that is not there."""
        if self._settings.compress is not None:
            self.codec(self._settings.compress, "payloads.compress")

    # -- arguments ---------------------------------------------------------------------------------

    def encode(self, message: Message, encrypts: bool, *, may_store: bool = True) -> tuple[Message, bytes]:
        """Return a message as it is stored, packed if it needs to be, and its bytes without a signature.

        Raises MessageError for what cannot be written, and without `may_store`, PayloadStoreUnavailable for what needs a blob.
        """
        plain = encode(message)
        if isinstance(message, PackedMessage) or not (encrypts or len(plain) > min(self._above, self._stored_above)):
            return message, plain
        data = json_encoder.encode((message.args, message.kwargs))
        if len(data) > self._settings.limit:
            raise MessageTooLarge(
                f"{message.job}: the arguments are {len(data):,} bytes, the limit is {self._settings.limit:,}: "
                "pass a reference (a path, a key) instead of the data, or raise payloads.limit"
            )
        body = self._body(data, _of_arguments(message), encrypts)
        size = len(data) if body is None else len(body.data)
        if self.store is not None and size > self._stored_above:
            if not may_store:
                raise PayloadStoreUnavailable("the caller cannot wait for the payload store")
            body = _put(self.store, message.id, body or Body(data=data))
        if body is None:
            return message, plain
        fields = {name: getattr(message, name) for name in Message.__struct_fields__}
        version = PACKED_RESULTS_VERSION if message.results else PACKED_VERSION
        packed = PackedMessage(**{**fields, "v": version, "args": [], "kwargs": {}, "body": body})
        return packed, encode(packed)

    def unpacked(self, message: Message) -> Message:
        """Return a message with its arguments; raise PayloadError if they cannot be read."""
        if not isinstance(message, PackedMessage):
            return message
        data = self._data(message.body, _of_arguments(message), message.id)
        try:
            args, kwargs = _decode_arguments(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise PayloadError(f"the body is not a list of args and kwargs: {error}") from None
        fields = {name: getattr(message, name) for name in Message.__struct_fields__}
        return Message(**{**fields, "v": PACKED_VERSION if message.results else VERSION, "args": args, "kwargs": kwargs})

    def unique_key(self, job: str, key: str) -> str:
        """Return what stands for a unique key: it may consist of arguments."""
        return f"{job}:{self._keys.digest(key)}"

    # -- results -----------------------------------------------------------------------------------

    def result_packer(self, encrypts: bool) -> Callable[[str, bytes], bytes] | None:
        """Return the function that packs the results of a job, by the job's id; None if they are stored as they are."""
        return functools.partial(self.pack_result, encrypts=encrypts) if encrypts or self._above < sys.maxsize else None

    def pack_result(self, job_id: str, result: bytes, *, encrypts: bool) -> bytes:
        """Return an encoded result as it is stored."""
        body = self._body(result, _of_result(job_id), encrypts)
        return result if body is None else msgspec.json.encode(_PackedResult(body))

    def unpack_result(self, job_id: str, stored: bytes) -> bytes:
        """Return a result as it was encoded; raise PayloadError if it cannot be read. A signature is not verified."""
        return self._unpacked(unsigned(stored), _of_result(job_id), job_id)

    def _unpacked(self, stored: bytes, about: bytes, job_id: str) -> bytes:
        if not stored.startswith(_PACKED_RESULT):
            return stored
        try:
            body = _decode_result(stored).body
        except msgspec.MsgspecError as error:
            raise PayloadError(f"is damaged: {error}") from None
        return self._data(body, about, job_id)

    # -- cursors of resumable jobs -----------------------------------------------------------------

    def cursor_packer(self, encrypts: bool) -> Callable[[str, bytes], bytes] | None:
        """Return the function that packs the cursors of a job, by the job's id; None if they are stored as they are."""
        return self._pack_cursor if encrypts else None

    def _pack_cursor(self, job_id: str, cursor: bytes) -> bytes:
        kid, data = self._keys.encrypt(cursor, _of_cursor(job_id))
        return msgspec.json.encode(_PackedResult(Body(data=data, key=kid)))

    def unpack_cursor(self, job_id: str, stored: bytes) -> bytes:
        """Return a cursor as it was encoded; raise PayloadError if it cannot be read."""
        return self._unpacked(stored, _of_cursor(job_id), job_id)

    # -- progress and log lines --------------------------------------------------------------------

    def note_packer(self, encrypts: bool) -> Callable[[str, bytes], bytes] | None:
        """Return the function that packs what a job tells, by the job's id; None if that is stored as it is."""
        return self._pack_note if encrypts else None

    def _pack_note(self, job_id: str, note: bytes) -> bytes:
        kid, data = self._keys.encrypt(note, _of_note(job_id))
        return msgspec.json.encode(_PackedResult(Body(data=data, key=kid)))

    def unpack_note(self, job_id: str, stored: bytes) -> bytes:
        """Return a progress or a log line as it was encoded; raise PayloadError if it cannot be read."""
        return self._unpacked(stored, _of_note(job_id), job_id)

    # -- bodies ------------------------------------------------------------------------------------

    def _body(self, data: bytes, about: bytes, encrypts: bool) -> Body | None:
        """Return the body for some data; None if it is better stored as it is."""
        codec: str | None = None
        if self._above < len(data) <= self._settings.limit:
            codec = self._settings.compress
            compressed = self.codec(codec or "", "payloads.compress").compress(data)
            if len(compressed) * 4 // 3 > len(data):  # base64 takes more than was saved
                codec = None
            else:
                data = compressed
        if encrypts:
            kid, data = self._keys.encrypt(data, _in_form(about, codec))
            return Body(data=data, codec=codec, key=kid)
        return None if codec is None else Body(data=data, codec=codec)

    def _data(self, body: Body, about: bytes, job_id: str) -> bytes:
        data = body.data if body.ref is None else self._fetched(body, body.ref, job_id)
        if body.key is not None:
            data = self._keys.decrypt(body.key, data, _in_form(about, body.codec))
        if body.codec is not None:
            try:
                codec = self.codec(body.codec, "codec")
            except (ConfigError, PluginError) as error:
                raise PayloadError(f"cannot be decompressed: {error}") from None
            data = decompressed(codec, body.codec, data, int(self._settings.limit))
        return data

    def _fetched(self, body: Body, name: str, job_id: str) -> bytes:
        """Return a blob; raise PayloadError if it is missing, or not the one that was written for this job."""
        from .store import job_of, sha256

        if body.data or job_of(name) != job_id:
            raise PayloadError(OF_ANOTHER_JOB)
        if self.store is None:
            raise PayloadError(f"the body is in a payload store, as {name}: set payloads.url here, too")
        limit = int(self._settings.limit) + ENCRYPTION_OVERHEAD
        data = self.store.get(name, limit)
        if data is None:
            raise PayloadError(f"the blob {name} is missing in the payload store")
        if len(data) > limit:
            raise PayloadError(f"the blob {name} is larger than payloads.limit, {self._settings.limit:,} bytes")
        if sha256(data) != body.sha256:
            raise PayloadError(f"the blob {name} in the payload store was changed or damaged")
        return data

    def codec(self, name: str, key: str) -> PayloadCodec:
        """Return the codec of a name that stands under a key; raise ConfigError or PluginError if there is none."""
        codec = self._codecs.get(name)
        if codec is None:
            codec = self._codecs[name] = self._find_codec(name, key)
        return codec


def _put(store: PayloadStore, job_id: str, body: Body) -> Body:
    from .store import blob_name, sha256

    name = blob_name(job_id)
    store.put(name, body.data)
    return replace(body, data=b"", ref=name, sha256=sha256(body.data))


def blob_of(message: Message) -> str | None:
    """Return the name of the blob that holds a message's arguments; None if it needs none."""
    return message.body.ref if isinstance(message, PackedMessage) else None


def own_blob(message: Message) -> str | None:
    """Return what `blob_of` does; raise PayloadError for a blob of another job, or for no name of one, as of a file elsewhere.

    Anyone who can write to the backend chooses the name, and the blob of a job is deleted when the job ends.
    """
    name = blob_of(message)
    if name is not None:
        from .store import job_of

        if job_of(name) != message.id:
            raise PayloadError(OF_ANOTHER_JOB)
    return name


def describe(message: Message) -> dict[str, Any]:
    """Return a message for display to a user who cannot read its body."""
    shown: dict[str, Any] = msgspec.to_builtins(message)
    if isinstance(message, PackedMessage):
        shown["body"] = {name: value for name, value in asdict(message.body).items() if name != "data" and value is not None}
        shown["args"] = shown["kwargs"] = HIDDEN if message.body.key else "(not readable here)"
    return shown


def _of_arguments(message: Message) -> bytes:
    """Return the associated data of a job's arguments: they belong to this job alone."""
    return f"arguments\0{message.id}\0{message.job}".encode()


def _in_form(about: bytes, codec: str | None) -> bytes:
    """Return the associated data of a body: its codec cannot be changed either."""
    return about if codec is None else about + b"\0" + codec.encode()


def _of_result(job_id: str) -> bytes:
    return f"result\0{job_id}".encode()


def _of_cursor(job_id: str) -> bytes:
    return f"cursor\0{job_id}".encode()


def _of_note(job_id: str) -> bytes:
    return f"note\0{job_id}".encode()
