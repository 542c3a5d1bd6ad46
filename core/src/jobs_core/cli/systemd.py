"""`jobsctl systemd`: print a unit for this configuration."""

from __future__ import annotations

import grp
import math
import os
import pwd
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from .. import urls
from ..app import App
from ..backends.sqlite.url import parse_url
from ..escapes import one_line
from . import output
from .common import Context, fail, pass_context
from .exits import Exit
from .types import FILE, UNIT_NAME, USER

STOP_RESERVE = 15
"""Seconds that systemd waits beyond the longest stop_timeout, in which jobs are released and the last log lines written."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:-]{0,199}\$?")

MANAGED = {"/run": "RuntimeDirectory", "/var/lib": "StateDirectory", "/var/log": "LogsDirectory"}
"""Directories in which systemd creates a service's own directories, owned by its user, and the setting for each."""

UNIT = """\
# {name}.service, made by `jobsctl systemd`. To install it:
#   jobsctl systemd | sudo tee /etc/systemd/system/{name}.service
#   sudo systemctl daemon-reload && sudo systemctl enable --now {name}
# `jobsctl systemd --help` has options for common changes; `systemctl edit {name}` keeps changes of your own.
{remarks}
[Unit]
Description=Background jobs of {directory}
Wants=network-online.target
After=network-online.target
# Keep restarting, however often it fails, except after a wrong configuration (exit code 2).
StartLimitIntervalSec=0

[Service]
# Ready once workers are serving; a reload is done once the new code is serving, and fails with the reason if the import fails.
Type=notify
NotifyAccess=main
{identity}
WorkingDirectory={directory}
# Variables such as JOBS_BACKEND, one NAME=value a line.
EnvironmentFile=-/etc/default/{name}
{prepare}ExecStart={command} start
ExecReload={command} reload
TimeoutStartSec=5min
# TERM to the supervisor, which lets running jobs finish for stop_timeout (the longest is {longest} s), then KILL to all.
KillMode=mixed
TimeoutStopSec={stop}
Restart=on-failure
RestartSec=2
RestartPreventExitStatus=2
WatchdogSec=30
# A job that makes its worker run out of memory is detected and moved to the dead letters; the service continues.
OOMPolicy=continue
LimitNOFILE=65536
SyslogIdentifier={name}

# Directories. Jobs may write only here and to /tmp: `jobsctl systemd --write DIR` adds a directory.
{places}ProtectSystem=strict
ProtectHome={home}
PrivateTmp={tmp}

# Restrictions on jobs. Left out, because some jobs need them: PrivateDevices= and ProtectClock= (GPUs),
# RestrictNamespaces= (browsers), MemoryDenyWriteExecute= (compilers at run time), UMask= (files for a web server).
NoNewPrivileges=yes
{capabilities}LockPersonality=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"""


@click.command("systemd")
@click.option(
    "--user", metavar="NAME", type=USER, help=("The user to run as (default: the owner of the configuration's directory).")
)
@click.option("--name", metavar="NAME", type=UNIT_NAME, help="The unit's name (default: the directory's, with -jobs).")
@click.option("--write", multiple=True, metavar="DIR", type=FILE, help="A directory that jobs write to; repeat for more.")
@pass_context
def systemd_command(context: Context, user: str | None, name: str | None, write: tuple[str, ...]) -> None:
    """Print a systemd unit for this configuration, with its paths, its user and its times.

    It restarts after a failure, reloads without a gap, waits as long as stop_timeout says, and lets jobs write to the
    run directory, the directories of the log and the database, and those named with --write.
    """
    output.echo(unit(context, user, name, [Path(directory).absolute() for directory in write]), nl=False)


def unit(context: Context, user: str | None, name: str | None, more: list[Path]) -> str:
    """Return the unit's text; raise ConfigError for an invalid configuration."""
    effective, app = context.effective, context.app
    base = effective.directory.absolute()
    for option, given in (("--user", user), ("--name", name)):
        if given is not None and not _NAME.fullmatch(given):
            fail(f"{option} {one_line(given)}: use letters, digits and _ . @ : -, at most 200 characters", Exit.USAGE)
    user, group = _identity(user, base)
    name = name or re.sub(r"[^A-Za-z0-9:_.-]", "-", f"{base.name or 'root'}-jobs")
    directories = list(dict.fromkeys([*_own_directories(app), *more]))
    command = [sys.executable, "-m", "jobs_core"]
    if effective.file is not None:
        command += ["-c", str(effective.file.absolute())]
    longest = max(math.ceil(pool.stop_timeout) for pool in effective.config.pools.values())
    seen = [base, *directories, Path(sys.executable), Path(sys.prefix), Path(sys.base_prefix)]
    return UNIT.format(
        name=name,
        remarks="".join(f"# NOTE: {one_line(line)}\n" for line in dict.fromkeys(_remarks(context, user))),
        directory=_line(base),
        identity=f"User={user}\nGroup={group}",
        prepare="".join(_preparations(app, base, directories, user, group)),
        command=" ".join(map(_argument, command)),
        longest=longest,
        stop=longest + STOP_RESERVE,
        places="".join(_places(directories)),
        home="read-only" if any(_inside(path, ("/home", "/root", "/run/user")) for path in seen) else "yes",
        tmp="no" if any(_inside(path, ("/tmp", "/var/tmp")) for path in seen) else "yes",
        capabilities="" if user == "root" else "CapabilityBoundingSet=\n",
    )


def _identity(user: str | None, base: Path) -> tuple[str, str]:
    try:
        if user is None:
            user = pwd.getpwuid(base.stat().st_uid).pw_name
        return user, grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
    except (KeyError, OSError):
        return user or "nobody", user or "nogroup"  # the unit may be for another machine, which has this user


def _own_directories(app: App) -> Iterator[Path]:
    yield app.run_dir.absolute()
    yield from _lasting_directories(app)
    broker = app.config.broker
    if broker.embedded:
        for where in broker.listen or [app.backend_url]:
            if urls.scheme(where) == "zmq+ipc":
                yield (app.config.base_dir / urls.read(where, ("key", "broker")).location).absolute().parent


def _lasting_directories(app: App) -> Iterator[Path]:
    """Yield the directories of data that has to be kept: jobs and log lines."""
    if app.config.logs.file is not None:
        yield (app.config.base_dir / app.config.logs.file).absolute().parent
    stores = [app.backend_url]
    if app.config.broker.embedded:
        stores.append(app.config.broker.store or urls.of_sqlite(app.run_dir.absolute() / "broker.db"))
    for store in stores:
        if urls.scheme(store) == "sqlite":
            yield parse_url(store, app.config.base_dir)[0].absolute().parent


def _remarks(context: Context, user: str) -> Iterator[str]:
    if user == "root":
        yield "Jobs run as root here: give them a user of their own, `jobsctl systemd --user NAME`."
    variables = sorted(source for source in set(context.effective.sources.values()) if source.startswith("JOBS_"))
    if variables:
        yield f"Set in this shell but not part of the unit; put into the environment file below: {', '.join(variables)}"
    for directory in _lasting_directories(context.app):
        if _inside(directory, ("/run", "/tmp")):
            yield f"{directory} does not survive a reboot, nor do the jobs or log lines in it."


def _preparations(app: App, base: Path, directories: list[Path], user: str, group: str) -> Iterator[str]:
    """Yield the unit's lines that create directories before the start, because its sandbox can only contain existing ones."""
    for directory in directories:
        if _managed(directory) or base.is_relative_to(directory):
            continue
        private = directory == app.run_dir.absolute()
        if private or not directory.exists():
            mode = "0700" if private else "0750"
            yield f"ExecStartPre=+/usr/bin/install -d -m {mode} -o {user} -g {group} {_argument(str(directory))}\n"


def _places(directories: list[Path]) -> Iterator[str]:
    for key, names in _by_key(filter(None, map(_managed, directories))).items():
        yield f"{key}={' '.join(map(_word, names))}\n{key}Mode=0700\n"
        if key == "RuntimeDirectory":
            yield "RuntimeDirectoryPreserve=restart\n"
    free = [directory for directory in directories if not _managed(directory)]
    outer = [path for path in free if not any(path != other and path.is_relative_to(other) for other in free)]
    if outer:
        yield f"ReadWritePaths={' '.join(_word(str(path)) for path in outer)}\n"


def _by_key(managed: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Group the names of directories by their key, in the order of MANAGED."""
    found: dict[str, list[str]] = {key: [] for key in MANAGED.values()}
    for key, name in managed:
        found[key].append(name)
    return {key: names for key, names in found.items() if names}


def _managed(directory: Path) -> tuple[str, str] | None:
    for root, key in MANAGED.items():
        if directory != Path(root) and directory.is_relative_to(root) and ":" not in str(directory):  # a colon means a link
            return key, str(directory.relative_to(root))
    return None


def _inside(path: Path, roots: Iterable[str]) -> bool:
    return any(place.is_relative_to(root) for place in (path, Path(os.path.realpath(path))) for root in roots)


def _argument(text: str) -> str:
    """Quote a word of a command line; a dollar sign in it is literal."""
    return _word(text).replace("$", "$$")


def _word(text: str) -> str:
    """Return a word of a unit's line, quoted if necessary."""
    escaped = _escaped(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if re.search(r"[\s\"'\\;]", text) else escaped


def _escaped(text: str | Path) -> str:
    if one_line(str(text)) != str(text):
        fail(f"{str(text)!r} contains a control or invisible character, which no unit should contain", Exit.USAGE)
    return str(text).replace("%", "%%")


def _line(text: Path) -> str:
    """Return a path for the end of a unit's line; refuse a final backslash, which would join the next line to it."""
    if str(text).endswith("\\"):
        fail(f"{str(text)!r} ends in a backslash, which no unit can contain", Exit.USAGE)
    return _escaped(text)
