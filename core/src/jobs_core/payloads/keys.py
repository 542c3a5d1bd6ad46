"""Encryption keys: AES-256-GCM under a key of its own for each body.

All keys come from the configured secret by HKDF-SHA256 (RFC 5869), so a secret that is also used elsewhere, such as for
signing, yields different keys. The key of a body is derived with a random salt: AES-GCM with random nonces alone is safe for
2^32 messages under one key (NIST SP 800-38D), which a busy queue reaches within weeks.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence

from ..errors import ConfigError, PayloadError
from ..units import shown

_SALT = b"jobs encryption"
_SALT_SIZE, _NONCE_SIZE, _TAG_SIZE = 16, 12, 16
ENCRYPTION_OVERHEAD = _SALT_SIZE + _NONCE_SIZE + _TAG_SIZE
SHORTEST_SECRET = 32


class Keyring:
    """Encrypts with the first key, decrypts with any: rotate by putting the new key first.

    A key is "kid:secret"; the secret is used as UTF-8 bytes, and must be random: it is not stretched as a password would be.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys: dict[str, bytes] = {}
        for number, key in enumerate(keys):
            kid, colon, secret = key.partition(":")
            if not colon or not kid.isalnum() or not kid.isascii() or len(kid) > 64 or len(secret) < SHORTEST_SECRET:
                raise ConfigError(
                    f'encryption_keys[{number}]: expected "kid:secret" with letters and digits before the colon and at least '
                    f"{SHORTEST_SECRET} random characters after it: openssl rand -base64 32 prints some"
                )
            if kid in self._keys:
                raise ConfigError(f"encryption_keys[{number}]: a key before it has the same name, {kid!r}: rename one")
            self._keys[kid] = _mac(_SALT, secret.encode())
        if keys and importlib.util.find_spec("cryptography") is None:
            raise ConfigError("encryption_keys: they need a further package: pip install 'jobs-core[encryption]'")
        self._kid = next(iter(self._keys), "")

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __repr__(self) -> str:
        return f"<Keyring kids={[*self._keys]}>"

    def encrypt(self, data: bytes, about: bytes) -> tuple[str, bytes]:
        """Return the id of the key, and the encrypted data, which can be decrypted only with the same `about`."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # an extra, and 30 ms

        head = os.urandom(_SALT_SIZE + _NONCE_SIZE)
        key = _derived(self._keys[self._kid], b"body" + head[:_SALT_SIZE])
        return self._kid, head + AESGCM(key).encrypt(head[_SALT_SIZE:], data, about)

    def decrypt(self, kid: str, data: bytes, about: bytes) -> bytes:
        """Return the decrypted data; raise PayloadError, which never shows any of it."""
        secret = self._keys.get(kid)
        if secret is None:
            raise PayloadError(f"cannot be decrypted: key {shown(kid)[1:-1]} is not configured: add it to encryption_keys")
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        head, sealed = data[: _SALT_SIZE + _NONCE_SIZE], data[_SALT_SIZE + _NONCE_SIZE :]
        try:
            if len(sealed) < _TAG_SIZE:
                raise InvalidTag
            return AESGCM(_derived(secret, b"body" + head[:_SALT_SIZE])).decrypt(head[_SALT_SIZE:], sealed, about)
        except InvalidTag:
            raise PayloadError(
                f"cannot be decrypted: it was changed, belongs to another job, or the secret of key {kid} is another here"
            ) from None

    def digest(self, text: str) -> str:
        """Return what stands for a text that must be compared, but not read: a MAC under the first key."""
        return _mac(_derived(self._keys[self._kid], b"unique"), text.encode()).hex()


def _derived(secret: bytes, purpose: bytes) -> bytes:
    """Return 32 bytes of HKDF-Expand (RFC 5869), which are its first block."""
    return _mac(secret, purpose + b"\1")


def _mac(secret: bytes, text: bytes) -> bytes:
    import hmac  # late: it loads OpenSSL, and most applications have no keys

    return hmac.digest(secret, text, "sha256")
