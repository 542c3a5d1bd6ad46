"""Compression of large arguments and results, by zstd or a plugin's codec."""

from __future__ import annotations

import abc
import importlib
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

from ..errors import ConfigError, PayloadError

WINDOW_LOG = 23
"""8 MB of history: what zstd asks each decoder to support. A frame that asks for more memory is refused."""


class PayloadCodec(abc.ABC):
    """Compresses and decompresses. Called by: any thread, several at a time."""

    @abc.abstractmethod
    def compress(self, data: bytes) -> bytes:
        """Return the compressed data; only this codec has to be able to read it."""

    @abc.abstractmethod
    def decompress(self, data: bytes, limit: int) -> bytes:
        """Return what `compress` was given; raise any exception for anything else.

        Anyone who can write to the backend chooses the data: a few bytes may unpack to gigabytes. Never hold more than
        `limit` + 1 bytes, and return at most that many: the extra byte tells the caller that the data is too large.
        """


PayloadCodecFactory: TypeAlias = Callable[[], PayloadCodec]


class Zstd(PayloadCodec):
    """Zstandard (RFC 8878), of the standard library or an extra. Raises ConfigError if there is neither."""

    def __init__(self) -> None:
        name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        try:
            self._zstd: Any = importlib.import_module(name)
        except ImportError:
            raise ConfigError("codec zstd needs a further package: pip install 'jobs-core[compression]'") from None

    def compress(self, data: bytes) -> bytes:
        compressed: bytes = self._zstd.compress(data)
        return compressed

    def decompress(self, data: bytes, limit: int) -> bytes:
        decompressor = self._zstd.ZstdDecompressor(options={self._zstd.DecompressionParameter.window_log_max: WINDOW_LOG})
        found: bytes = decompressor.decompress(data, max_length=limit + 1)
        if not decompressor.eof and len(found) <= limit:
            raise ValueError("it ends too early")
        return found


def decompressed(codec: PayloadCodec, name: str, data: bytes, limit: int) -> bytes:
    """Return decompressed data; raise PayloadError if it is damaged, or larger than `limit`."""
    try:
        found = codec.decompress(data, limit)
    except Exception as error:  # a codec raises what it likes, and its text may quote the data
        raise PayloadError(f"cannot be decompressed by {name}: it is damaged ({type(error).__name__})") from None
    if len(found) > limit:
        raise PayloadError(f"cannot be decompressed: it is larger than payloads.limit, {limit:,} bytes")
    return found
