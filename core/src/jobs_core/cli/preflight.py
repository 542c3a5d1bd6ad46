"""Test on this machine, for `check` and `start`, that the configured files can be written and the address can be bound.

config_rules.py decides which values are valid; this module tries out valid ones. It leaves no files behind.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from .. import urls
from ..app import App
from ..config_rules import parse_listen
from ..errors import ConfigError
from ..supervisor.http import server
from ..supervisor.log import file
from ..supervisor.pidfile import running
from ..urls import redact


def preflight(app: App, *, address: bool = True) -> None:
    """Try the files and addresses of the configuration on this machine; raise ConfigError with a line for each problem.

    `start` omits the address: if another process uses it, only probes and metrics are missing, and jobs should still run.
    """
    problems = [str(error) for error in _problems(app, address)]
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def _problems(app: App, address: bool) -> Iterator[ConfigError]:
    last = (_dashboard_address,) if address else ()
    for attempt in (_run_dir, _log_file, *((_listen,) if address else ()), _results, _broker, _dashboard, *last):
        try:
            attempt(app)
        except ConfigError as error:
            yield error


def _run_dir(app: App) -> None:
    try:
        with _made(app.run_dir):
            if not app.run_dir.is_dir() or not os.access(app.run_dir, os.W_OK | os.X_OK):
                raise PermissionError(13, "not a directory that this user may write to")
    except OSError as error:
        raise ConfigError(
            f"run_dir: {app.run_dir} cannot be used: {error.strerror}: set run_dir to a directory that this user may write to"
        ) from None


def _log_file(app: App) -> None:
    if app.config.logs.file is None:
        return
    path = app.config.base_dir / app.config.logs.file
    try:
        with _made(path.parent):
            new = not os.path.lexists(path)
            os.close(os.open(path, file.FLAGS, 0o600))
            if new:
                path.unlink()
    except OSError as error:
        raise ConfigError(f'logs.file = "{path}" cannot be written: {error.strerror}{file.fix_for(path)}') from None


def _listen(app: App) -> None:
    listen = app.config.http.listen
    if listen is None or running(app.run_dir) is not None:  # a running supervisor uses the address itself
        return
    base = app.config.base_dir
    server.listener(listen, base).close()
    address = parse_listen(listen)
    if isinstance(address, Path):
        (base / address).unlink()


def _results(app: App) -> None:
    """Test the store of results even if it is not needed: a user who configures a store relies on it."""
    if app.config.results.url is not None:
        app.results_store()


def _broker(app: App) -> None:
    if not app.config.broker.embedded:
        return
    if app.plugins.broker_commands(app.config):
        return
    asked = [str(each.info) for each in app.plugins.implementations("jobs_broker_commands")]
    brings = f"{' and '.join(asked)} provided no broker" if asked else "no plugin provides a broker"
    raise ConfigError(f"broker.embedded: {brings}: pip install jobs-zeromq, or leave it out")


def _dashboard(app: App) -> None:
    if app.config.http.dashboard:
        app.plugins.dashboard(app.config)


def _dashboard_address(app: App) -> None:
    """Try the address of the dashboard, if the plugin can do so; a running supervisor uses it itself."""
    if app.config.http.dashboard and running(app.run_dir) is None:
        tries = getattr(app.plugins.dashboard(app.config), "try_address", None)
        if tries is not None:
            tries(app.config.base_dir)


def unused_results(app: App) -> str | None:
    """Return the message about a [results] url that the backend does not use."""
    if app.config.results.url is None or "results" not in app.new_backend().features:
        return None
    return f"results.url is not used: {urls.scheme(app.backend_url)}:// keeps results itself ({redact(app.backend_url)})"


@contextlib.contextmanager
def _made(directory: Path) -> Iterator[None]:
    """Create a directory with its parents, and afterwards remove those that did not exist before."""
    missing = []
    while not os.path.lexists(directory):
        missing.append(directory)
        directory = directory.parent
    made: list[Path] = []
    try:
        for path in reversed(missing):
            path.mkdir(mode=0o700)
            made.append(path)
        if not directory.is_dir():
            raise NotADirectoryError(20, "a part of the path is not a directory")
        yield
    finally:
        for path in reversed(made):
            with contextlib.suppress(OSError):  # another process has created files in it
                path.rmdir()
