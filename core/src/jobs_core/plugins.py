"""Finding plugins and asking them: every result has an owner, every failure a culprit, and no plugin stops a
process that does not need it.

Discovery is a loop of our own over the entry points of the group `jobs`, one guard a plugin: pluggy's would end
at the first broken one. Hooks are called implementation by implementation for the same reason.
"""

from __future__ import annotations

import difflib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import pluggy

from . import boundary, builtin, hookspecs
from .backends.base import INTERFACE_VERSION
from .errors import JobsError, PluginError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

logger = logging.getLogger("jobs.plugins")

GROUP = "jobs"
PROVIDERS = {  # provider hook: what a user calls the thing
    "jobs_queue_backends": "backend",
    "jobs_job_loaders": "loader",
    "jobs_framework_bootstrappers": "framework",
    "jobs_alert_channels": "alert channel",
    "jobs_cli_commands": "command",
}
DISTRIBUTIONS = {  # what to install for a name that nobody here provides
    "redis": "jobs-redis",
    "rediss": "jobs-redis",
    "redis+unix": "jobs-redis",
    "redis+sentinel": "jobs-redis",
    "redis+cluster": "jobs-redis",
    "amqp": "jobs-rabbitmq",
    "amqps": "jobs-rabbitmq",
    "zmq+tcp": "jobs-zeromq",
    "zmq+ipc": "jobs-zeromq",
    "flask": "jobs-flask",
    "django": "jobs-django",
}


class PluginInfo(msgspec.Struct):
    """One plugin that was found: where from, what it provides, what is wrong with it."""

    name: str
    distribution: str
    version: str
    hooks: list[str] = []
    provides: dict[str, list[str]] = {}
    problems: list[str] = []
    detail: str = ""  # the traceback behind a failed import
    disabled: bool = False

    def __str__(self) -> str:
        return f"plugin {self.name!r} of {self.distribution} {self.version}"


class Implementation(msgspec.Struct, frozen=True):
    """One plugin's function for one hook; called with the arguments it names."""

    hook: str
    info: PluginInfo
    function: Callable[..., Any]
    argnames: tuple[str, ...]

    def __call__(self, **arguments: Any) -> Any:
        if _tracing:
            print(f"jobs: hook {self.hook} in {self.info}", file=sys.stderr, flush=True)
        return self.function(*[arguments[name] for name in self.argnames])


_tracing = os.environ.get("JOBS_TRACE_HOOKS", "") not in ("", "0")


class Plugins:
    """The plugins of this process. Built once, read by any thread."""

    def __init__(self, entry_points: Iterable[EntryPoint] = (), *, disabled: Iterable[str] = ()) -> None:
        self.infos: list[PluginInfo] = []
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._by_plugin: dict[str, PluginInfo] = {}
        self._provided: dict[str, dict[str, list[tuple[Any, PluginInfo]]]] = {}
        self._add(builtin, PluginInfo("builtin", "jobs-core", _version("jobs-core")))
        off = set(disabled)
        for entry_point in sorted(entry_points, key=lambda entry: entry.name):
            self._find(entry_point, off)

    @classmethod
    def discover(cls) -> Plugins:
        """Every plugin installed here, but those that JOBS_DISABLE_PLUGINS=a,b names."""
        from importlib import metadata  # late: it costs more than all of this module

        disabled = os.environ.get("JOBS_DISABLE_PLUGINS", "")
        return cls(metadata.entry_points(group=GROUP), disabled=[name.strip() for name in disabled.split(",")])

    def _find(self, entry_point: EntryPoint, disabled: set[str]) -> None:
        dist = entry_point.dist
        info = PluginInfo(entry_point.name, dist.name if dist else "?", dist.version if dist else "?")
        if entry_point.name in disabled:
            info.disabled = True
            self.infos.append(info)
            return
        try:
            plugin = entry_point.load()
        except Exception as error:
            info.problems.append(f"cannot be imported: {type(error).__name__}: {error}")
            info.detail = traceback.format_exc()
            self.infos.append(info)
            return
        self._add(plugin, info)

    def _add(self, plugin: object, info: PluginInfo) -> None:
        self.infos.append(info)
        version = getattr(plugin, "jobs_interface_version", INTERFACE_VERSION)
        if version != INTERFACE_VERSION:
            info.problems.append(
                f"is written for plugin interface {version}, this jobs-core has {INTERFACE_VERSION}: "
                f"install matching releases of {info.distribution} and jobs-core"
            )
            return
        for name in dir(plugin):
            if self._manager.parse_hookimpl_opts(plugin, name) is None:
                continue
            if name not in hookspecs.__dict__:
                near = difflib.get_close_matches(name, _hook_names(), 1, 0.5)
                info.problems.append(f"implements an unknown hook {name}" + (f"; is {near[0]} meant?" if near else ""))
            else:
                info.hooks.append(name)
        try:
            registered = self._manager.register(plugin, name=f"{info.distribution}:{info.name}")
        except Exception as error:  # arguments that the hook does not have, among others
            info.problems.append(f"cannot be used: {' '.join(str(error).split())}")
            info.hooks.clear()
            return
        self._by_plugin[registered or ""] = info

    def implementations(self, hook: str) -> list[Implementation]:
        """Who implements a hook, in order of registration; empty for a hook that costs nothing."""
        return [
            Implementation(hook, self._by_plugin[impl.plugin_name], impl.function, tuple(impl.argnames))
            for impl in getattr(self._manager.hook, hook).get_hookimpls()
        ]

    def notify(self, hook: str, **arguments: Any) -> None:
        """Tell everybody who listens; an exception is logged with its culprit and stops nobody."""
        for implementation in self.implementations(hook):
            guarded(implementation, **arguments)

    def provided(self, hook: str) -> dict[str, list[tuple[Any, PluginInfo]]]:
        """name → (factory, who provides it) for a provider hook; asked once."""
        if hook not in self._provided:
            found: dict[str, list[tuple[Any, PluginInfo]]] = {}
            for implementation in self.implementations(hook):
                for name, factory in self._ask(implementation).items():
                    found.setdefault(name, []).append((factory, implementation.info))
                    implementation.info.provides.setdefault(PROVIDERS[hook], []).append(name)
            self._provided[hook] = found
        return self._provided[hook]

    def _ask(self, implementation: Implementation) -> Mapping[str, Any]:
        info = implementation.info
        try:
            answer = implementation()
        except Exception as error:
            info.problems.append(f"{implementation.hook} raised {boundary.told(error)}")
            return {}
        if not isinstance(answer, Mapping):
            info.problems.append(f"{implementation.hook} returned {type(answer).__name__}, expected a dict of name to factory")
            return {}
        wrong = [name for name, factory in answer.items() if not isinstance(name, str) or not callable(factory)]
        if wrong:
            info.problems.append(f"{implementation.hook} returned no callable for {', '.join(map(repr, wrong))}")
        return {name: factory for name, factory in answer.items() if name not in wrong}

    def choose(self, hook: str, name: str, key: str) -> Any:
        """The factory called `name`, which the configuration asks for under `key`; raises PluginError with the mend."""
        found = self.provided(hook)
        offers = found.get(name, [])
        if len(offers) == 1:
            return offers[0][0]
        kind = PROVIDERS[hook]
        if offers:
            rivals = " and ".join(str(info) for _, info in offers)
            raise PluginError(f"{key}: {kind} {name!r} is provided by {rivals}: disable one with JOBS_DISABLE_PLUGINS")
        raise PluginError(f"{key}: there is no {kind} {name!r}: {self._mend(name, sorted(found))}")

    def _mend(self, name: str, known: list[str]) -> str:
        distribution = DISTRIBUTIONS.get(name)
        broken = [info for info in self.infos if info.problems and distribution in (None, info.distribution)]
        disabled = [info for info in self.infos if info.disabled and distribution in (None, info.distribution)]
        if distribution and broken:
            return f"{broken[0]} {broken[0].problems[0]}"
        if distribution and disabled:
            return f"{disabled[0]} is disabled by JOBS_DISABLE_PLUGINS"
        if distribution:
            return f"pip install {distribution}"
        near = difflib.get_close_matches(name, known, 1)
        text = f"did you mean {near[0]!r}?" if near else f"installed are {', '.join(known) or 'none'}"
        return text + "".join(f"; {info} {info.problems[0]}" for info in broken)


def guarded(implementation: Implementation, **arguments: Any) -> Any:
    """Call a hook that is nobody's business to fail; what it returned, or None, whatever it raises."""
    try:
        return implementation(**arguments)
    except BaseException as error:
        if boundary.interrupts(error):
            raise
        text = "%s: hook %s failed; the work goes on without it"
        boundary.log(logger, logging.ERROR, text, implementation.info, implementation.hook, error=error)
        return None


def guarded_but_for_ours(implementation: Implementation, **arguments: Any) -> Any:
    """Likewise, but an error of ours, which names key and mend, goes to who asked."""
    try:
        return implementation(**arguments)
    except JobsError:
        raise
    except Exception:
        logger.exception("%s: hook %s failed; the work goes on without it", implementation.info, implementation.hook)
        return None


def _hook_names() -> list[str]:
    return [name for name in hookspecs.__dict__ if name.startswith("jobs_")]


def _version(distribution: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "?"
