"""The dashboard of jobs: `jobsctl web` or the supervisor serves it, and `create_app` makes it a part of an ASGI application.

Nothing here imports Starlette before it is needed, because every `jobsctl` command loads this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from jobs_core import hookimpl

if TYPE_CHECKING:
    import click
    from starlette.applications import Starlette

    from jobs_core import App, Config

    from .access import Authorize

__version__ = "0.1.0"
jobs_interface_version = 1


@hookimpl
def jobs_cli_commands() -> Mapping[str, click.Command]:
    from .command import web_command

    return {"web": web_command}


@hookimpl
def jobs_dashboard(config: Config) -> Callable[[App, Callable[[], None]], None]:
    from .settings import exposed, read
    from .supervised import Supervised

    settings = read(config.plugins.get("web", {}))
    exposed(settings)
    return Supervised(settings)


def create_app(app: App | None = None, *, authorize: Authorize | None = None) -> Starlette:
    """Return the dashboard as an ASGI application, to be served alone or mounted under a prefix.

    `app` is the application whose jobs it shows, by default the current one. `authorize` decides who may use it: it returns a
    `User`, or None to refuse. It may be an `async def`; a plain function is called on a thread. Without it, users log in with
    the tokens of `[plugins.web.tokens]`. Raises ConfigError if there are neither, and for a mistake in `[plugins.web]`.
    """
    from .site import create

    return create(app, authorize)


__all__ = ["create_app", "jobs_cli_commands", "jobs_dashboard", "jobs_interface_version"]
