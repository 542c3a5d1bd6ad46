"""The files of the dashboard, style and script: served from the package, under names that change with their content."""

from __future__ import annotations

import hashlib
from importlib import resources

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


class Asset(Struct, frozen=True):
    """A file, as it is served."""

    data: bytes
    content_type: str


class Assets:
    """All files, read once."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._served: dict[str, Asset] = {}
        for file in sorted(resources.files(__package__).joinpath("static").iterdir(), key=lambda file: file.name):
            stem, _, kind = file.name.rpartition(".")
            if kind in _TYPES:
                data = file.read_bytes()
                name = f"{stem}.{hashlib.sha256(data).hexdigest()[:12]}.{kind}"
                self._names[file.name] = name
                self._served[name] = Asset(data, _TYPES[kind])

    def name(self, file: str) -> str:
        """Return the name under which a file is served."""
        return self._names[file]

    async def serve(self, request: Request) -> Response:
        """Serve a file, to be kept by the browser for a year: its name changes with its content."""
        found = self._served.get(request.path_params["name"])
        if found is None:
            return Response("not found\n", 404, media_type="text/plain")
        headers = {"Cache-Control": "public, max-age=31536000, immutable", "Content-Type": found.content_type}
        return Response(found.data, headers=headers)
