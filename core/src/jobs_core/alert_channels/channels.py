"""The core's alert channels: for each service, the message that it expects, and how it reports a refusal."""

from __future__ import annotations

import base64
import difflib
import hmac
import time
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote_plus, urlsplit

import msgspec
from msgspec import Struct

from .base import AlertChannel

S = TypeVar("S", bound=Struct)


class WebhookSettings(Struct, frozen=True, forbid_unknown_fields=True):
    url: str
    headers: dict[str, str] = {}


class SlackSettings(Struct, frozen=True, forbid_unknown_fields=True):
    url: str


class DingTalkSettings(Struct, frozen=True, forbid_unknown_fields=True):
    url: str  # with its access_token
    secret: str | None = None  # for a robot that requires signatures


class WebhookChannel(AlertChannel):
    """Sends plain JSON: title, text and every fact of the alert."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = _read(WebhookSettings, settings)

    def send(self, title: str, text: str, facts: dict[str, Any]) -> None:
        from .post import post

        post(self._settings.url, {"title": title, "text": text, **facts}, self._settings.headers)


class SlackChannel(AlertChannel):
    """An incoming webhook of Slack, or of a compatible service (Mattermost)."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = _read(SlackSettings, settings)

    def send(self, title: str, text: str, facts: dict[str, Any]) -> None:
        from .post import post

        post(self._settings.url, {"text": f"*{_escaped(title)}*\n{_escaped(text)}"})


def _escaped(text: str) -> str:
    """Escape Slack's three control characters, so that no topic's name becomes a mention."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class DingTalkChannel(AlertChannel):
    """A custom robot of DingTalk; messages are signed if it has a secret."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = _read(DingTalkSettings, settings)

    def send(self, title: str, text: str, facts: dict[str, Any]) -> None:
        from .post import post

        url = self._settings.url
        if self._settings.secret:
            url += ("&" if urlsplit(url).query else "?") + signature(self._settings.secret, round(time.time() * 1000))
        answer = post(url, {"msgtype": "text", "text": {"content": f"{title}\n{text}"}})
        try:
            said = msgspec.json.decode(answer, type=dict[str, Any])
        except msgspec.MsgspecError:
            raise ConnectionError(f"sent an answer that no DingTalk robot sends: {answer[:100]!r}") from None
        if said.get("errcode") != 0:  # DingTalk refuses messages with status 200, too
            raise ConnectionError(f"DingTalk refused it: {said.get('errcode')} {said.get('errmsg')}")


def signature(secret: str, milliseconds: int) -> str:
    """Return the query that signs a request to a DingTalk robot: HMAC-SHA256 over time and secret; valid for an hour."""
    mac = hmac.digest(secret.encode(), f"{milliseconds}\n{secret}".encode(), "sha256")
    return f"timestamp={milliseconds}&sign={quote_plus(base64.b64encode(mac))}"


# -- settings --------------------------------------------------------------------------------------


def _read(kind: type[S], given: dict[str, Any]) -> S:
    """Return checked settings; a string may be read from a file: `url_file = "/run/secrets/url"`. Raises ValueError."""
    known = kind.__struct_fields__
    values: dict[str, Any] = {}
    for key, value in given.items():
        name = key.removesuffix("_file")
        if key not in known and name not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise ValueError(
                f"{key}: unknown key" + (f"; did you mean {near[0]}?" if near else f"; valid keys are {', '.join(known)}")
            )
        values[name] = value if key in known else _from_file(key, value)
    if "url" not in values:
        raise ValueError('url is missing: url = "https://…", or url_file = "/run/secrets/…"')
    try:
        settings = msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace("`", "").replace("$.", "")) from None
    _check_url(values["url"])
    return settings


def _from_file(key: str, path: object) -> str:
    try:
        return Path(str(path)).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{key}: {path}: {getattr(error, 'strerror', None) or error}") from None


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and url.isascii()
            and url.isprintable()
            and " " not in url
        )
        _ = parts.port  # a number, or ValueError
    except ValueError:
        good = False
    if not good:  # the error does not show the value, which may be secret
        raise ValueError("url: expected an address that begins with https:// (or http://)")
