"""Arguments and results that are not stored as plain JSON: how they are written into a body and read back.

codecs.py compresses, keys.py encrypts; packing.py applies the configuration to messages and results.
"""

from .codecs import PayloadCodec, PayloadCodecFactory
from .keys import Keyring
from .packing import HIDDEN, Payloads, blob_of, describe, own_blob

__all__ = [
    "HIDDEN",
    "Keyring",
    "PayloadCodec",
    "PayloadCodecFactory",
    "Payloads",
    "blob_of",
    "describe",
    "own_blob",
]
