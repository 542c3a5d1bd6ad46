"""The URL of a queue file."""

from __future__ import annotations

from pathlib import Path

from ...errors import BackendError
from ...urls import read, redact

_DURABILITY = 'the only parameter is durability, "power" (the default) or "process"'


def parse_url(url: str, base_dir: Path) -> tuple[Path, str]:
    """Return the file and the durability of sqlite:///relative, sqlite:////absolute?durability=process.

    %20 and the like are decoded, unless the file, or its directory, exists under the name as written.
    """
    directories, _, name = url.partition("://")[2].rpartition("/")
    try:
        parts = read(f"sqlite://{directories.replace('?', '%3F')}/{name}" if directories else url, ("durability",))
    except BackendError:
        raise BackendError(f"{redact(url)}: {_DURABILITY}") from None
    durability = parts.parameters.get("durability", "power")
    if parts.hosts or not parts.path or parts.user or parts.password:
        raise BackendError(f"{redact(url)}: expected sqlite:///file.db (relative) or sqlite:////directory/file.db (absolute)")
    if durability not in ("power", "process"):
        raise BackendError(f"{redact(url)}: {_DURABILITY}")
    decoded, literal = base_dir / parts.path, base_dir / f"{directories}/{name.partition('?')[0]}"[1:]
    if literal != decoded and (literal.exists() or (literal.parent.is_dir() and not decoded.parent.is_dir())):
        return literal, durability
    return decoded, durability
