"""Serving the dashboard alone, as `jobsctl web` does."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
from typing import Any

import click
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from jobs_core import App, ConfigError, JobsError
from jobs_core.worker.main import prepare

from .settings import TABLE, Settings, read
from .site import Site, asgi
from .tokens import new_token

STOP_PATIENCE = 3
"""Seconds that open event streams and requests have at the end."""


class Prefixed:
    """Serves an application under a prefix, whether the proxy before it passes paths on with the prefix or without."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._prefix and scope["type"] == "http":
            path = str(scope["path"])
            inside = path == self._prefix or path.startswith(f"{self._prefix}/")
            scope = {**scope, "root_path": self._prefix, "path": path if inside else self._prefix + path}
        await self._app(scope, receive, send)


class Server(uvicorn.Server):
    """Uvicorn, which ends the streams of open pages before it waits for its connections to end."""

    def __init__(self, config: uvicorn.Config, site: Site) -> None:
        super().__init__(config)
        self._site = site

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._site.live.close()
        await super().shutdown(sockets)


def serve(app: App, **given: Any) -> None:
    """Serve until TERM or Ctrl-C. Raises ConfigError for settings that would expose the dashboard, or cannot be used."""
    settings = read(app.config.plugins.get("web", {}), **given)
    if app.is_alone():
        raise ConfigError(
            "backend: it lives inside one process, and the dashboard is another: it would show an empty queue. Choose a "
            "backend that processes share, such as sqlite:///jobs.db"
        )
    if not settings.tokens and not settings.is_local:
        raise ConfigError(
            f"{TABLE}.listen: {settings.listen} can be reached from other machines, and there are no tokens: everybody could "
            "use the dashboard. Make one with `jobsctl web token NAME --role admin`, or listen on 127.0.0.1"
        )
    listening = _listen(settings)
    key = "" if settings.tokens else new_token()
    _import_application(app)
    site = Site(app, settings, key=key)
    config = uvicorn.Config(
        Prefixed(asgi(site), settings.root_path),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=settings.proxies,
        timeout_graceful_shutdown=STOP_PATIENCE,
        lifespan="off",
    )
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    click.echo(f"the dashboard is at {_link(settings, key)} (Ctrl-C ends it)")
    server = Server(config, site)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listening])


def _link(settings: Settings, key: str) -> str:
    base = f"http://{settings.listen}{settings.root_path}/"
    return f"{base}login?key={key}" if key else base


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"{TABLE}.listen: {settings.listen} cannot be used: {reason}: choose another address with --listen"
        ) from None


def _import_application(app: App) -> None:
    """Import the jobs, so that their signatures are known; without them, the dashboard shows all that does not need them."""
    try:
        prepare(app, uses_backend=False)
    except JobsError as error:
        click.echo(f"jobs: the application cannot be imported, so arguments are not checked here: {error}", err=True)
