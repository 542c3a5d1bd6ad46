"""The receivers of events, as `[webhooks.NAME]` describes them. Raises ConfigError for what cannot be read."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

from .. import webhook_signing
from ..config import Config, Webhook
from ..errors import ConfigError

if TYPE_CHECKING:
    from .sending import Network


def url_of(config: Config, name: str) -> str:
    """Return the address of a receiver; it may be a secret, because some contain a token."""
    settings = config.webhooks[name]
    url = settings.url if settings.url is not None else _read(config, name, "url_file", settings.url_file)
    if not url.startswith(("https://", "http://")) or not url.isascii() or any(each.isspace() for each in url):
        raise ConfigError(f'webhooks.{name}.url_file: expected an address such as "https://example.com/hooks" in the file')
    return url


def keys_of(config: Config, name: str) -> tuple[bytes, ...]:
    """Return the keys that sign what is sent to a receiver."""
    settings = config.webhooks[name]
    key = "secret" if settings.secret is not None else "secret_file"
    text = settings.secret if settings.secret is not None else _read(config, name, "secret_file", settings.secret_file)
    try:
        return webhook_signing.keys(text)
    except ValueError as error:
        raise ConfigError(f"webhooks.{name}.{key}: {error}") from None


def networks_of(settings: Webhook) -> list[Network]:
    """Return the networks beside public addresses to which events may be sent."""
    return [ipaddress.ip_network(network) for network in settings.networks]


def _read(config: Config, name: str, key: str, path: str | None) -> str:
    """Return the text of a file that a key names; read it each time, so that a changed secret needs no restart."""
    try:
        return (config.base_dir / Path(path or "")).read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"webhooks.{name}.{key}: {path}: {getattr(error, 'strerror', None) or error}") from None
