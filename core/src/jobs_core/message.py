"""The envelope: the immutable JSON that carries one job, and its signature.

The format is documented for producers in other languages in docs/envelope.md; its JSON Schema is
docs/envelope.schema.json. Backends store the exact bytes and never parse them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from .conversion import json_encoder, may_hide_non_finite, non_finite
from .errors import ConfigError, MessageError, MessageTooLarge, SignatureError, UnknownVersion
from .ids import new_id
from .units import MAX_SECONDS, shown

VERSION = 1
PACKED_VERSION = 2
"""The version of an envelope whose arguments are in its `body`, or that takes `results`: older workers put it off.

The arguments of a body are encrypted, compressed or in the payload store.
"""
PACKED_RESULTS_VERSION = 3
"""The version of an envelope with both: workers that know only bodies would run it without the results."""
_SIGNED = b"jobs1."

MAX_ID: Final = 128
MAX_NAME: Final = 200
MAX_UNIQUE_KEY: Final = 512
MAX_PRIORITY: Final = 9
MAX_RETRIES: Final = 2**31 - 1
MAX_NESTING: Final = 200
"""Deepest nesting of lists and dicts: a worker, which may have less stack, must be able to decode every message."""

# The limits of an envelope: options.py checks them when a job is enqueued, and a worker when it decodes the message. The
# patterns are only for the JSON Schema: a worker looks a name up in a dict, and does nothing else with an unknown one.
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME, extra_json_schema={"pattern": r"^[A-Za-z0-9_.<>:-]+$"})]
Topic = Annotated[str, Meta(min_length=1, max_length=128, extra_json_schema={"pattern": r"^[A-Za-z0-9_.-]+$"})]
Seconds = Annotated[float, Meta(ge=0, le=MAX_SECONDS)]
Priority = Annotated[int, Meta(ge=0, le=MAX_PRIORITY)]
Retries = Annotated[int, Meta(ge=0, le=MAX_RETRIES)]
LimitName = Annotated[
    str, Meta(min_length=1, max_length=193, extra_json_schema={"pattern": r"^[A-Za-z0-9_.-]{1,64}(:.{1,128})?$"})
]


class UniqueKey(Struct, frozen=True, forbid_unknown_fields=False):
    """A key that only one job may hold: while it is queued, until it is done, or for a number of seconds.

    With the scope "queued", each new job may replace the waiting one. The last of them must be due `longest` seconds after
    the first was enqueued.
    """

    key: Annotated[str, Meta(min_length=1, max_length=MAX_UNIQUE_KEY)]
    scope: Literal["queued", "done"] | Seconds = "done"
    conflict: Literal["drop", "replace", "raise"] = "drop"
    longest: Seconds | UnsetType = UNSET

    @property
    def bound(self) -> float | None:
        """Return within how many seconds jobs that replace each other must be due; None for no limit."""
        return None if self.longest is UNSET or self.scope != "queued" else self.longest


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One job as a message. `None` means that the setting of the job function or its topic applies.

    Durations are in seconds. `enqueued_at` is the producer's Unix time and only informs people; delays and expiry use the
    broker's clock.
    """

    v: int
    id: Annotated[str, Meta(max_length=MAX_ID)] = ""
    job: Name | None = None
    topic: Topic
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    enqueued_at: float = 0.0
    delay: Seconds | None = None
    expires_in: Seconds | None = None
    priority: Priority = 0
    retries: Retries | None = None
    timeout: Seconds | None = None
    store_result: bool | None = None
    unique: UniqueKey | None = None
    key: str | None = None
    headers: dict[str, Any] = {}
    limits: list[LimitName] | None = None  # None: those of the job function, which a worker then computes
    results: dict[str, str] | None = None  # by JSON Pointer into args and kwargs: the flow's member whose result goes there
    flow: str | None = None  # with results: the flow that they belong to


class Body(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Packed arguments or a packed result: JSON, compressed if `codec` is set, then encrypted if `key` is set."""

    data: bytes = b""  # as base64
    codec: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    key: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    ref: Annotated[str, Meta(min_length=1, max_length=220)] | None = None  # the blob in the payload store, instead of data
    sha256: Annotated[str, Meta(min_length=64, max_length=64)] | None = None  # of the blob


class PackedMessage(Message, frozen=True, kw_only=True, omit_defaults=True):
    """One job as a message of version 2: `args` and `kwargs` are empty, and `body` holds both as `[args, kwargs]`."""

    body: Body


class _VersionOnly(Struct):
    v: int
    body: Any = None
    results: Any = None


class _Marks(Struct):
    """The fields that distinguish an envelope from the plain JSON of a foreign producer."""

    v: int
    topic: str


_encode = json_encoder.encode
_decode_message = msgspec.json.Decoder(Message).decode
_decode_packed = msgspec.json.Decoder(PackedMessage).decode
_decode_version = msgspec.json.Decoder(_VersionOnly).decode
_decode_marks = msgspec.json.Decoder(_Marks).decode


def new_message(job: str | None, topic: str, args: Sequence[Any], kwargs: Mapping[str, Any], **options: Any) -> Message:
    """Return a message with a fresh id and this process's time."""
    return Message(
        v=VERSION,
        id=options.pop("id", None) or new_id(),
        job=job,
        topic=topic,
        args=list(args),
        kwargs=dict(kwargs),
        enqueued_at=round(time.time(), 6),
        **options,
    )


class Signer:
    """Signs with the first key and verifies with any of them; to rotate keys, put the new one first.

    A key is "kid:secret"; the secret should be at least 32 bytes in UTF-8. The MAC is HMAC-SHA256 (RFC 2104) over the exact
    bytes that follow the signature line.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys: dict[bytes, bytes] = {}
        for number, key in enumerate(keys):
            kid, colon, secret = key.partition(":")
            if kid.encode() in self._keys:
                raise ConfigError(f"signing_keys[{number}]: a key before it has the same name, {kid!r}: rename one")
            if not colon or not kid.isalnum() or len(secret) < 16:
                raise ConfigError(
                    f'signing_keys[{number}]: expected "kid:secret" with letters and digits before the colon '
                    "and at least 16 characters after it"
                )
            self._keys[kid.encode()] = secret.encode()
        self._kid = next(iter(self._keys), b"")
        if self._keys:
            import hmac  # late: it loads OpenSSL, and most applications have no keys

            self._hmac = hmac

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __repr__(self) -> str:
        return f"<Signer kids={[kid.decode() for kid in self._keys]}>"

    def sign(self, body: bytes) -> bytes:
        """Return `body` with its signature line before it."""
        mac = self._hmac.digest(self._keys[self._kid], body, "sha256").hex().encode()
        return _SIGNED + self._kid + b"." + mac + b"\n" + body

    def sign_result(self, flow: str, member: str, stored: bytes) -> bytes:
        """Return a stored result of a flow's member with a signature line over flow, member and bytes."""
        mac = self._hmac.digest(self._keys[self._kid], _of_result(flow, member) + stored, "sha256").hex().encode()
        return _SIGNED + self._kid + b"." + mac + b"\n" + stored

    def verify_result(self, flow: str, member: str, signed: bytes) -> bytes:
        """Return the bytes of a signed result; raise SignatureError if it is not the result of this member of this flow."""
        kid, mac, stored = self._parts(signed, "result")
        if not self._hmac.compare_digest(
            mac, self._hmac.digest(self._keys[kid], _of_result(flow, member) + stored, "sha256").hex().encode()
        ):
            raise SignatureError(f"the signature does not match the result (key {kid.decode()!r})")
        return stored

    def sign_document(self, content: bytes) -> str:
        """Return the signature of what makes up a document of a backend."""
        return f"{self._kid.decode()}.{self._hmac.digest(self._keys[self._kid], content, 'sha256').hex()}"

    def verify_document(self, signature: str, content: bytes) -> None:
        """Raise SignatureError if the signature of a document is not that of its content."""
        kid, mac, _ = self._parts(_SIGNED + signature.encode() + b"\n" if signature else b"", "document")
        if not self._hmac.compare_digest(mac, self._hmac.digest(self._keys[kid], content, "sha256").hex().encode()):
            raise SignatureError(f"the signature does not match the document (key {kid.decode()!r})")

    def verify(self, payload: bytes) -> bytes:
        """Return the body of a signed payload; raise SignatureError, without parsing the body, if it cannot be trusted."""
        kid, mac, body = self._parts(payload, "message")
        if not self._hmac.compare_digest(mac, self._hmac.digest(self._keys[kid], body, "sha256").hex().encode()):
            raise SignatureError(f"the signature does not match the message (key {kid.decode()!r})")
        return body

    def _parts(self, payload: bytes, what: str) -> tuple[bytes, bytes, bytes]:
        """Return the key's name, the MAC and the body of a signed payload; raise SignatureError if it has no known key."""
        line, newline, body = payload.partition(b"\n")
        if not newline or not line.startswith(_SIGNED):
            raise SignatureError(f"the {what} is not signed, but signing_keys are configured")
        kid, _, mac = line[len(_SIGNED) :].partition(b".")
        if kid not in self._keys:
            raise SignatureError(
                f"the {what} is signed with the unknown key {kid[:32].decode(errors='replace')!r}: "
                "add it to signing_keys if you trust its producer"
            )
        return kid, mac, body


def _of_result(flow: str, member: str) -> bytes:
    """Return what a result's signature covers besides its bytes; no envelope begins like this."""
    return f"result\0{flow}\0{member}\0".encode()


def unsigned(payload: bytes) -> bytes:
    """Return a payload without its signature line, if it has one; nothing is verified."""
    return payload.partition(b"\n")[2] if payload.startswith(_SIGNED) else payload


def encode(message: Message, *, signer: Signer | None = None, limit: int | None = None) -> bytes:
    """Return the bytes of `message` as a backend stores them.

    Raises MessageTooLarge above `limit` bytes and MessageError for NaN, infinity and values that JSON cannot represent.
    """
    try:
        payload = _encode(message)
    except _UNWRITABLE as error:
        raise _unwritable(message, error) from None
    if len(payload) > _SHALLOW:
        _refuse_depth(message, payload)
    if not _finite(message) and may_hide_non_finite(payload):  # in this order: the second check costs five times as much
        _refuse_non_finite(message)
    if limit is not None and len(payload) > limit:
        raise too_large(message, payload, limit)
    return signer.sign(payload) if signer else payload


def too_large(message: Message, payload: bytes, limit: int) -> MessageTooLarge:
    """Return the error for a message that exceeds `max_message`."""
    return MessageTooLarge(
        f"{message.job}: the message is {len(payload):,} bytes, the limit is {limit:,}: "
        "pass a reference (a path, a key) instead of the data, or raise max_message"
    )


_SHALLOW = 2 * MAX_NESTING  # a payload of at most this many bytes cannot be nested too deeply
_UNWRITABLE = TypeError, ValueError, OverflowError, RecursionError


def _unwritable(message: Message, error: Exception) -> MessageError:
    """Return the error for a message that cannot be encoded, which names the part at fault."""
    for name, value in _parts(message):
        try:
            _encode(value)
        except _UNWRITABLE as reason:
            if isinstance(reason, RecursionError):
                return _too_deep(message, name)
            return MessageError(f"{message.job}: {name} cannot be written as JSON: {reason}")
    return MessageError(f"{message.job}: the message cannot be written as JSON: {error}")


def _parts(message: Message) -> list[tuple[str, Any]]:
    """Return the parts of a message, each with its name for errors."""
    args = [(f"positional argument {n}", value) for n, value in enumerate(message.args, 1)]
    kwargs = [(f"argument {shown(name)}", value) for name, value in message.kwargs.items()]
    return [*args, *kwargs, *((name, getattr(message, name)) for name in ("headers", "unique", "key", "limits", "id"))]


def _refuse_depth(message: Message, payload: bytes) -> None:
    """Raise MessageError if a part of the message, which `payload` encodes, is nested deeper than MAX_NESTING.

    Counting the brackets first is cheap, and excludes nearly every payload.
    """
    if payload.count(b"[") + payload.count(b"{") <= MAX_NESTING or nesting(payload) <= MAX_NESTING + 2:
        return
    raise _too_deep(message, max(_parts(message), key=lambda part: nesting(_encode(part[1])))[0])


def _too_deep(message: Message, name: str) -> MessageError:
    return MessageError(
        f"{message.job}: {name} is nested deeper than {MAX_NESTING} levels, or contains itself: flatten it, or pass it as a "
        "string that the job parses"
    )


_STRUCTURE = bytes.maketrans(b"{}", b"[]"), bytes(set(range(256)) - set(b'[]{}"'))


def nesting(payload: bytes) -> int:
    """Return the nesting depth of arrays and objects in some JSON; stop counting at twice MAX_NESTING.

    Each round removes all innermost pairs of brackets in one pass.
    """
    if b"\\" in payload:
        payload = payload.replace(b"\\\\", b"").replace(b'\\"', b"")
    left = payload.translate(*_STRUCTURE).replace(b'""', b"")
    left = b"".join(left.split(b'"')[::2])  # brackets in strings do not count
    rounds = 0
    while left and rounds < 2 * MAX_NESTING:
        left = left.replace(b"[]", b"")
        rounds += 1
    return rounds


def decode(payload: bytes, *, signer: Signer | None = None, topic: str, default_job: str | None = None) -> Message:
    """Return the message in `payload`, which came from the queue of `topic`.

    With a `default_job`, JSON that is not an envelope becomes that job's single argument. Raises SignatureError,
    UnknownVersion or MessageError; the payload is verified before it is decoded.
    """
    signed = bool(signer)
    if signer:
        payload = signer.verify(payload)
    else:  # without keys, signed messages are accepted unverified
        payload = unsigned(payload)
    try:
        message = _decode_message(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return _decode_other(payload, error, topic, default_job)
    if message.v > VERSION:
        message = _later(payload, message.v, message)
    elif message.v < VERSION:
        raise MessageError(f"the envelope has version {message.v}, but versions start at {VERSION}")
    if signed and message.topic != topic:
        raise SignatureError(f"the message is signed for topic {message.topic!r} and was found in {topic!r}")
    if message.job is None:
        if default_job is None:
            raise MessageError(f"the envelope names no job, and topic {topic!r} has no default_job")
        message = msgspec.structs.replace(message, job=default_job)
    return message


def _later(payload: bytes, version: int, plain: Message | None = None) -> Message:
    """Return a packed message, or `plain` if it takes results; raise UnknownVersion for what only newer workers can read."""
    if version not in (PACKED_VERSION, PACKED_RESULTS_VERSION):
        raise _unknown_version(version)
    holds = _decode_version(payload)
    packed, takes = holds.body is not None, holds.results is not None
    if not packed and not takes:
        raise UnknownVersion(f"the envelope has version {version}, but no body that this worker knows: upgrade jobs-core")
    if (packed and takes) is not (version == PACKED_RESULTS_VERSION):
        fields = "a body and results" if packed and takes else "a body or results, not both"
        raise MessageError(f'an envelope of version {version} has {fields}: see "The envelope" in the documentation')
    try:
        message = plain if plain is not None and not packed else _decode_packed(payload) if packed else _decode_message(payload)
    except msgspec.ValidationError as error:
        raise MessageError(f"not an envelope: {error}") from None
    if not message.id or message.job is None:
        raise MessageError(f"an envelope of version {version} names its id and its job: what it holds belongs to them")
    return message


def _decode_other(payload: bytes, error: Exception, topic: str, default_job: str | None) -> Message:
    """Decode foreign JSON for the default job; else raise the error that says why this is not a readable envelope."""
    try:
        version = _decode_version(payload).v
        if version > VERSION:
            _later(payload, version)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    if default_job is not None and not _looks_like_envelope(payload):
        try:
            argument = msgspec.json.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as not_json:
            raise MessageError(f"not JSON: {not_json}") from None
        return Message(v=VERSION, job=default_job, topic=topic, args=[argument])
    kind = "not an envelope" if isinstance(error, msgspec.ValidationError) else "not JSON"
    raise MessageError(f"{kind}: {error}")


def _looks_like_envelope(payload: bytes) -> bool:
    try:
        _decode_marks(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _unknown_version(version: int) -> UnknownVersion:
    return UnknownVersion(
        f"the envelope has version {version}, but this worker reads versions up to {PACKED_RESULTS_VERSION}: upgrade jobs-core"
    )


_FINITE = frozenset({str, int, bool, type(None)})


def _finite(message: Message) -> bool:
    """Return whether the types of the arguments exclude NaN and infinity; the values are not examined."""
    if message.kwargs and not _FINITE.issuperset(map(type, message.kwargs.values())):
        return False
    return not message.headers and _FINITE.issuperset(map(type, message.args))


def _refuse_non_finite(message: Message) -> None:
    for name, value in _parts(message):
        if non_finite(value):
            raise MessageError(f"{message.job}: {name} contains NaN or infinity, which JSON cannot represent")


def readable(message: Message, name: str) -> None:
    """Raise MessageError if a worker could not read this message, which a hook has changed; the error mentions `name`."""
    payload = encode(message)
    try:
        _decode_message(payload)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise MessageError(f"{name}: the hook changed the message into one that no worker can read: {error}") from None
