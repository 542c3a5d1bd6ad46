"""Serving the dashboard alone, as `jobsctl web` and the supervisor do."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from jobs_core import App, ConfigError, JobsError, config_sources
from jobs_core.unix_sockets import at_path
from jobs_core.worker.main import prepare

from .prompt import PromptProtocol, Seldom, room
from .proxies import Proxies
from .routes import ROUTES
from .settings import TABLE, Settings, exposed, read
from .site import Site, asgi
from .tokens import new_token
from .watching import Fixed, Watched

STOP_PATIENCE = 3
"""Seconds that open event streams and requests have at the end."""

SUPERVISED_PATIENCE = 1
"""The same under a supervisor, which kills its helpers after 3 s."""

logger = logging.getLogger("jobs.web")


PAGES = {route.path.split("/")[1] for route in ROUTES} | {"static"}
"""The first parts of all paths."""


class Prefixed:
    """Serves an application under a prefix, whether the proxy before it passes paths on with the prefix or without.

    The prefix may have the name of a page: below "/jobs", "/jobs" is the page of that name, and "/jobs/jobs" is, too.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._prefix and scope["type"] == "http":
            path = str(scope["path"])
            scope = {**scope, "root_path": self._prefix, "path": path if self._has_prefix(path) else self._prefix + path}
        await self._app(scope, receive, send)

    def _has_prefix(self, path: str) -> bool:
        if path == self._prefix:
            return path[1:] not in PAGES
        return path.startswith(f"{self._prefix}/") and path[len(self._prefix) + 1 :].partition("/")[0] in PAGES


class Server(uvicorn.Server):
    """Uvicorn, which ends the streams of open pages before it waits for its connections to end."""

    def __init__(self, config: uvicorn.Config, site: Site, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._site = site
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._site.warm_up()  # before connections are accepted: they wait for the same time, and no page is slow afterwards
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._site.live.close()
        await super().shutdown(sockets)


def serve(app: App, *, file: Path | None = None, **given: Any) -> None:
    """Serve until TERM or Ctrl-C. Raises ConfigError for settings that would expose the dashboard, or cannot be used.

    `file` is that of the configuration, whose tokens and users are read again when it changes; `given` are settings that
    replace those of the table.
    """
    settings = settings_of(app, **given)
    listening = listener(settings, app.config.base_dir)
    key = "" if settings.knows_users else new_token()
    _import_application(app)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    server = server_of(app, settings, given, key=key, file=file)
    click.echo(f"the dashboard is at {link(settings, key)} (Ctrl-C ends it)")
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listening])


def serve_supervised(app: App, ready: Callable[[], None]) -> None:
    """Serve until TERM, as a child of the supervisor, which has imported the application; call `ready` once it listens.

    Without users in the configuration, `jobsctl web link` logs in: it can read the key of this installation, as this can.
    """
    settings = settings_of(app)
    listening = listener(settings, app.config.base_dir)
    named = os.environ.get("JOBS_CONFIG")
    server = server_of(app, settings, file=Path(named) if named else None, ready=ready)
    server.config.timeout_graceful_shutdown = SUPERVISED_PATIENCE
    how = "" if settings.knows_users else "; `jobsctl web link` prints a link that logs in"
    logger.info("the dashboard serves at %s%s", link(settings), how)
    server.run(sockets=[listening])


def settings_of(app: App, **given: Any) -> Settings:
    """Return the settings with which the dashboard may be served; raise ConfigError."""
    settings = read(app.config.plugins.get("web", {}), **given)
    if app.is_alone():
        raise ConfigError(
            "backend: it lives inside one process, and the dashboard is another: it would show topics without jobs. Choose a "
            "backend that processes share, such as sqlite:///jobs.db"
        )
    exposed(settings)
    return settings


def server_of(
    app: App,
    settings: Settings,
    given: Mapping[str, Any] = MappingProxyType({}),
    *,
    key: str = "",
    file: Path | None = None,
    ready: Callable[[], None] = lambda: None,
) -> Server:
    """Return the server of an application's dashboard."""

    def again() -> Settings:
        return read(config_sources.load(file).config.plugins.get("web", {}), **given)

    users = Fixed(settings) if file is None else Watched(settings, file, again)
    site = Site(app, settings, key=key, users=users)
    served = Proxies(
        Prefixed(asgi(site), settings.root_path),
        settings.trusted_proxies,
        on_socket=isinstance(settings.address, Path),
    )
    config = uvicorn.Config(
        served,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # uvicorn would believe every program on this machine
        timeout_graceful_shutdown=STOP_PATIENCE,
        lifespan="off",
        http=PromptProtocol,
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    PromptProtocol.most = room()
    logging.getLogger("asyncio").addFilter(Seldom())
    return Server(config, site, ready)


def link(settings: Settings, key: str = "") -> str:
    """Return where a browser finds the dashboard, and is logged in by the key if there is one."""
    if isinstance(settings.address, Path):
        base = f"{settings.listen}, path {settings.root_path}/"
    else:
        base = f"http://{settings.listen}{settings.root_path}/"
    return f"{base}login?key={key}" if key else base


def listener(settings: Settings, base_dir: Path) -> socket.socket:
    """Return a listening socket for `listen`, whose path is relative to `base_dir`. Raises ConfigError."""
    address = settings.address
    try:
        if isinstance(address, Path):
            made = at_path(base_dir / address, int(settings.socket_mode, 8))
            made.listen(128)
            return made
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        made = socket.create_server(address, family=family, backlog=128)
        made.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )  # inherited; else an answer may wait 40 ms for its second part
        return made
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"{TABLE}.listen: {settings.listen} cannot be used: {reason}: choose another address here or with --listen"
        ) from None


def _import_application(app: App) -> None:
    """Import the jobs, so that their signatures are known; without them, the dashboard shows all that does not need them."""
    try:
        prepare(app, uses_backend=False)
    except JobsError as error:
        click.echo(f"jobs: the application cannot be imported, so arguments are not checked here: {error}", err=True)
