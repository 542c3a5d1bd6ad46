"""URLs of backends: reading them, and showing them without their secrets."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit


def scheme(url: str) -> str:
    """The scheme of a backend URL, lower case; empty if there is none."""
    head, separator, _ = url.partition("://")
    return head.lower() if separator else ""


def redact(url: str) -> str:
    """`url` with its password and query covered, fit for logs and error messages."""
    try:
        parts = urlsplit(url)
        secret = parts.password is not None
    except ValueError:
        return f"{scheme(url)}://…"
    netloc = parts.netloc
    if secret:
        user = parts.username or ""
        netloc = f"{user}:***@{netloc.rpartition('@')[2]}"
    query = "…" if parts.query and "=" in parts.query and _hides(parts.query) else parts.query
    if not parts.netloc:  # urlunsplit would drop the empty authority of sqlite:///path
        return f"{parts.scheme}://{parts.path}" + (f"?{query}" if query else "")
    return urlunsplit((parts.scheme, netloc, parts.path, query, ""))


def _hides(query: str) -> bool:
    return any(word in query.lower() for word in ("pass", "secret", "key", "token"))
