"""Find plugins and call their hooks: every result and every failure names its plugin.

A broken plugin does not affect processes that do not need it. Therefore we load the entry points of the group `jobs` in a
loop of our own, and call the implementations of a hook one by one: pluggy would stop at the first that fails.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pluggy

from . import boundary, builtin, foreign, guard, hookspecs, installed, urls
from .alert_channels.base import AlertChannel
from .backends.base import INTERFACE_VERSION, OLDEST_INTERFACE, Backend
from .backends.outbox import Outbox
from .errors import ConfigError, JobsError, PluginError
from .loaders.base import Bootstrapper, JobLoader
from .payloads.codecs import PayloadCodec
from .version import __version__

if TYPE_CHECKING:
    from .config import Config
    from .installed import EntryPoint

logger = logging.getLogger("jobs.plugins")

GROUP = "jobs"
PROVIDERS = {  # provider hook: the word for its products in error messages
    "jobs_queue_backends": "backend",
    "jobs_job_loaders": "loader",
    "jobs_framework_bootstrappers": "framework",
    "jobs_alert_channels": "alert channel",
    "jobs_payload_codecs": "codec",
    "jobs_outboxes": "outbox",
    "jobs_cli_commands": "command",
}
MADE: dict[str, type] = {  # provider hook: the type of the objects that its factories return
    "jobs_queue_backends": Backend,
    "jobs_job_loaders": JobLoader,
    "jobs_framework_bootstrappers": Bootstrapper,
    "jobs_alert_channels": AlertChannel,
    "jobs_payload_codecs": PayloadCodec,
    "jobs_outboxes": Outbox,
}
SLOW = 1.0
"""Seconds after which a plugin's import is reported as slow: every process and every command imports it."""

DISTRIBUTIONS = {  # name that no installed plugin provides: the distribution to install
    "redis": "jobs-redis",
    "rediss": "jobs-redis",
    "redis+unix": "jobs-redis",
    "redis+sentinel": "jobs-redis",
    "redis+cluster": "jobs-redis",
    "amqp": "jobs-rabbitmq",
    "amqps": "jobs-rabbitmq",
    "zmq+tcp": "jobs-zeromq",
    "zmq+ipc": "jobs-zeromq",
    "postgresql": "jobs-postgres",
    "postgres": "jobs-postgres",
    "flask": "jobs-flask",
    "django": "jobs-django",
    "web": "jobs-web",
}


class PluginInfo(msgspec.Struct):
    """One plugin that was found: its origin, the names that it provides, and its problems."""

    name: str
    distribution: str
    version: str
    hooks: list[str] = []
    provides: dict[str, list[str]] = {}
    problems: list[str] = []
    notes: list[str] = []  # warnings: the plugin works all the same
    seconds: float = 0.0  # duration of its import
    detail: str = ""  # the traceback behind a failed import
    disabled: bool = False

    @property
    def troubles(self) -> list[str]:
        """Return its problems and notes, which should be reported."""
        return [*self.problems, *self.notes]

    def __str__(self) -> str:
        return f"plugin {self.name!r} of {self.distribution} {self.version}"


class Implementation(msgspec.Struct, frozen=True):
    """One plugin's function for one hook; it gets only the arguments that its signature names."""

    hook: str
    info: PluginInfo
    function: Callable[..., Any]
    argnames: tuple[str, ...]

    def __call__(self, **arguments: Any) -> Any:
        return self.call(arguments)

    def call(self, arguments: Mapping[str, Any]) -> Any:
        """Call the function with a mapping of the hook's arguments, which a caller may use for several implementations."""
        return self.function(*[arguments[name] for name in self.argnames])


class Plugins:
    """The plugins of this process. Built once, read by any thread."""

    def __init__(
        self, entry_points: Iterable[EntryPoint] = (), *, disabled: Iterable[str] = (), prefer: Sequence[str] = ()
    ) -> None:
        self.infos: list[PluginInfo] = []
        self._prefer = prefer
        self._traces = os.environ.get("JOBS_TRACE_HOOKS", "") not in ("", "0")
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._by_plugin: dict[str, PluginInfo] = {}
        self._provided: dict[str, dict[str, list[tuple[Any, PluginInfo]]]] = {}
        self._configured = False
        self._builtin = PluginInfo("builtin", "jobs-core", __version__)
        self._add(builtin, self._builtin)
        off = set(disabled)
        for entry_point in sorted(entry_points, key=lambda entry: entry.name):
            self._find(entry_point, off)

    @classmethod
    def discover(cls, prefer: Sequence[str] = ()) -> Plugins:
        """Find every installed plugin, except those in JOBS_DISABLE_PLUGINS=a,b; `prefer` is that of the configuration."""
        disabled = os.environ.get("JOBS_DISABLE_PLUGINS", "")
        off = [name.strip() for name in disabled.split(",")]
        return cls(installed.entry_points(GROUP), disabled=off, prefer=prefer)

    def _find(self, entry_point: EntryPoint, disabled: set[str]) -> None:
        dist = entry_point.dist
        info = PluginInfo(entry_point.name, dist.name if dist else "?", dist.version if dist else "?")
        if entry_point.name in disabled:
            info.disabled = True
            self.infos.append(info)
            return
        began = time.perf_counter()
        try:
            with guard.blaming(info, "import"), guard.without_stdout(always=True), boundary.exit_told(f"the import of {info}"):
                plugin = entry_point.load()
        except JobsError as error:
            cause = error.__cause__ or error
            ends = ": it ends the process" if isinstance(cause, SystemExit) else ""
            info.problems.append(f"cannot be imported{ends}: {boundary.told(cause)}")
            info.detail = boundary.traceback_of(cause)
            self.infos.append(info)
            return
        finally:
            info.seconds = time.perf_counter() - began
        if info.seconds > SLOW:
            info.notes.append(
                f"took {info.seconds:.1f} s to import, and every command and process waits for that: import libraries where "
                "they are used, inside the factories"
            )
        self._add(plugin, info)

    def _add(self, plugin: object, info: PluginInfo) -> None:
        self.infos.append(info)
        try:
            with guard.blaming(info, "registration"), guard.without_stdout(always=True):
                problems = self._problems(plugin, info)
                usable = not problems
                if usable:
                    registered = self._manager.register(plugin, name=f"{info.distribution}:{info.name}")
        except JobsError as error:  # for example if an implementation takes arguments that its hook does not have
            cause = error.__cause__ or error
            text = boundary.text_of(cause) if isinstance(cause, pluggy.PluginValidationError) else boundary.told(cause)
            usable, problems = False, [f"cannot be used: {' '.join(text.split())}"]
        info.problems += problems
        if usable:
            self._by_plugin[registered or ""] = info
        else:
            info.hooks.clear()

    def configure(self, config: Config) -> None:
        """Add the hooks that plugins have for this configuration; the first call counts. Raises ConfigError of a plugin."""
        if self._configured:
            return
        self._configured = True
        for implementation in self.implementations("jobs_configured_hooks"):
            made = guarded_but_for_ours(implementation, config=config)
            if made is not None:
                self._add_configured(made, implementation.info)

    def _add_configured(self, plugin: object, info: PluginInfo) -> None:
        hooks, info.hooks = info.hooks, []
        try:
            with guard.blaming(info, "jobs_configured_hooks"):
                problems = self._problems(plugin, info)
                if not problems:
                    name = self._manager.register(plugin, name=f"{info.distribution}:{info.name}:configured")
                    self._by_plugin[name or ""] = info
        except JobsError as error:
            problems = [f"jobs_configured_hooks returned hooks that cannot be used: {boundary.told(error.__cause__ or error)}"]
        info.problems += problems
        info.hooks = hooks + ([] if problems else info.hooks)

    def _problems(self, plugin: object, info: PluginInfo) -> list[str]:
        """Return the reasons not to use a plugin, and record in `info` which hooks it implements."""
        version = getattr(plugin, "jobs_interface_version", OLDEST_INTERFACE)
        if version not in range(OLDEST_INTERFACE, INTERFACE_VERSION + 1):
            return [
                f"is written for plugin interface {version}, but this jobs-core has {INTERFACE_VERSION}: "
                f"install matching releases of {info.distribution} and jobs-core"
            ]
        found: list[str] = []
        for name in dir(plugin):
            options = self._manager.parse_hookimpl_opts(plugin, name)
            if options is None:
                continue
            hook = options.get("specname") or name
            if hook not in hookspecs.__dict__:
                near = foreign.close(hook, _hook_names(), 1, 0.5)
                info.problems.append(f"implements an unknown hook {hook}" + (f"; is {near[0]} meant?" if near else ""))
            elif options.get("wrapper") or options.get("hookwrapper"):
                found.append(f"cannot be used: {hook} is a hook wrapper, which is not supported")
            elif inspect.iscoroutinefunction(getattr(plugin, name)):
                found.append(f"cannot be used: {hook} is an async def, which would never be awaited: make it a plain function")
            else:
                info.hooks.append(hook)
        return found

    def implementations(self, hook: str) -> list[Implementation]:
        """Return the implementations of a hook in order of registration; without any, calling the hook costs nothing."""
        return [
            self._implementation(hook, self._by_plugin[impl.plugin_name], impl.function, tuple(impl.argnames))
            for impl in getattr(self._manager.hook, hook).get_hookimpls()
        ]

    def _implementation(
        self, hook: str, info: PluginInfo, function: Callable[..., Any], argnames: tuple[str, ...]
    ) -> Implementation:
        if not self._traces:
            return Implementation(hook, info, function, argnames)

        def traced(*arguments: Any) -> Any:
            print(f"jobs: hook {hook} in {info}", file=sys.stderr, flush=True)
            return function(*arguments)

        return Implementation(hook, info, traced, argnames)

    def notify(self, hook: str, **arguments: Any) -> None:
        """Call every implementation; log an exception with its plugin's name, and continue with the others."""
        for implementation in self.implementations(hook):
            guarded(implementation, **arguments)

    def provided(self, hook: str) -> dict[str, list[tuple[Any, PluginInfo]]]:
        """Return name → [(factory, its plugin)] for a provider hook; the plugins are asked only once."""
        if hook not in self._provided:
            found: dict[str, list[tuple[Any, PluginInfo]]] = {}
            for implementation in self.implementations(hook):
                for name, factory in self._ask(implementation).items():
                    found.setdefault(name, []).append((factory, implementation.info))
                    implementation.info.provides.setdefault(PROVIDERS[hook], []).append(name)
            self._provided[hook] = found
            for name, offers in found.items():
                self._tell_rivals(PROVIDERS[hook], name, offers)
        return self._provided[hook]

    def ask(self, hooks: Iterable[str] = MADE) -> list[PluginInfo]:
        """Ask every plugin for the names that it provides, to find errors in its answers; return all plugins found."""
        for hook in hooks:
            self.provided(hook)
        return self.infos

    def log_troubles(self) -> None:
        """Log the problems of all plugins, including those that this process does not need."""
        for info in self.ask():
            for trouble in info.troubles:
                boundary.log(logger, logging.WARNING, "%s %s", str(info), trouble)

    def _ask(self, implementation: Implementation) -> dict[str, Any]:
        info = implementation.info
        try:
            with guard.blaming(info, implementation.hook), guard.without_stdout(always=True):
                answer = implementation()
                offered = dict(answer) if isinstance(answer, Mapping) else None
        except JobsError as error:
            info.problems.append(f"{implementation.hook} raised {boundary.told(error.__cause__ or error)}")
            return {}
        if offered is None:
            info.problems.append(
                f"{implementation.hook} returned {boundary.name_of(type(answer))}, expected a dict of name to factory"
            )
            return {}
        wrong = [name for name, factory in offered.items() if type(name) is not str or not callable(factory)]
        if wrong:
            names = ", ".join(repr(name) if type(name) is str else boundary.text_of(name) for name in wrong)
            info.problems.append(f"{implementation.hook} returned a factory that is not callable for {names}")
        return {name: factory for name, factory in offered.items() if name not in wrong}

    def choose(self, hook: str, name: str, key: str, *, hide: Callable[[str], str] = str) -> Callable[..., Any]:
        """Return the factory called `name`, which the configuration requests under `key`; raise PluginError with the fix.

        If the factory raises when it is called, the error names the plugin and the key; `hide` removes secrets from it.
        """
        found = self.provided(hook)
        offers = found.get(name, [])
        kind = PROVIDERS[hook]
        if not offers:
            raise PluginError(f"{key}: there is no {kind} {name!r}: {self._fix(name, sorted(found))}")
        winner = self._winner(offers)
        if winner is None:
            rivals = " and ".join(str(info) for _, info in offers)
            raise PluginError(
                f"{key}: {kind} {name!r} is provided by {rivals}: choose one with "
                f'[plugins] prefer = ["{offers[0][1].name}"], or disable one with JOBS_DISABLE_PLUGINS'
            )
        factory, info = winner
        return factory if info is self._builtin else functools.partial(_make, factory, info, key, hook, name, hide)

    def provider(self, hook: str, name: str) -> PluginInfo | None:
        """Return the plugin whose factory `choose` would return; None if it is the core's own, or if there is none."""
        winner = self._winner(self.provided(hook).get(name, []))
        return None if winner is None or winner[1] is self._builtin else winner[1]

    def unknown_preferences(self) -> list[str]:
        """Return the names in [plugins] prefer that belong to no plugin."""
        known = {name for info in self.infos for name in (info.name, info.distribution)}
        return [name for name in self._prefer if name not in known]

    def _winner(self, offers: Sequence[tuple[Any, PluginInfo]]) -> tuple[Any, PluginInfo] | None:
        """Return the offer to use: of a preferred plugin, else the core's own, else the only one; None if undecided."""
        for wanted in self._prefer:
            for offer in offers:
                if wanted in (offer[1].name, offer[1].distribution):
                    return offer
        own = [offer for offer in offers if offer[1] is self._builtin]
        return own[0] if own else offers[0] if len(offers) == 1 else None

    def _tell_rivals(self, kind: str, name: str, offers: Sequence[tuple[Any, PluginInfo]]) -> None:
        if len(offers) < 2:
            return
        winner = self._winner(offers)
        for offer in offers:
            info, others = offer[1], " and ".join(str(other[1]) for other in offers if other is not offer)
            if winner is None:
                fate = "choose one with [plugins] prefer"
            elif offer is winner:
                fate = "this one is used"
            else:
                fate = f'it is not used; [plugins] prefer = ["{info.name}"] selects it'
            info.notes.append(f"provides {kind} {name!r}, as does {others}: {fate}")

    def broker_commands(self, config: Config) -> list[list[str]]:
        """Return the programs that plugins ask the supervisor to run beside the workers.

        Raises PluginError for an answer that is not a list of commands.
        """
        commands: list[list[str]] = []
        for implementation in self.implementations("jobs_broker_commands"):
            made = guarded_but_for_ours(implementation, config=config) or []
            for command in made if isinstance(made, (list, tuple)) else [made]:
                if not isinstance(command, (list, tuple)) or not all(isinstance(word, (str, os.PathLike)) for word in command):
                    raise PluginError(
                        f"broker.embedded: {implementation.info}: hook {implementation.hook} returned something other than a "
                        "list of command lines"
                    )
                commands.append([os.fspath(word) for word in command])
        return commands

    def dashboard(self, config: Config) -> Callable[..., None]:
        """Return the function of a plugin that serves the dashboard; raise ConfigError or PluginError if there is none."""
        found: list[tuple[PluginInfo, Any]] = []
        for implementation in self.implementations("jobs_dashboard"):
            with guard.blaming(implementation.info, f"hook {implementation.hook}", key="http.dashboard"):
                serve = implementation(config=config)
            if serve is not None and not callable(serve):
                raise PluginError(
                    f"http.dashboard: {implementation.info}: hook {implementation.hook} returned "
                    f"{boundary.name_of(type(serve))}, expected a function or None"
                )
            if serve is not None:
                found.append((implementation.info, serve))
        if not found:
            raise ConfigError(f"http.dashboard: no plugin provides a dashboard: {self._fix('web', [])}, or leave it out")
        if len(found) > 1:
            rivals = " and ".join(str(info) for info, _ in found)
            raise PluginError(f"http.dashboard: it is provided by {rivals}: disable one with JOBS_DISABLE_PLUGINS")
        return found[0][1]  # type: ignore[no-any-return]

    def findings(self, config: Config) -> Iterator[str]:
        """Yield what plugins lack to do their work here, for `jobsctl check`; a hook that fails is a finding, too."""
        for implementation in self.implementations("jobs_check"):
            try:
                with guard.blaming(implementation.info, f"hook {implementation.hook}"):
                    found = implementation(config=config)
                    texts = [] if found is None else [boundary.text_of(text) for text in found]
            except JobsError as error:
                texts = [str(error)]
            yield from texts

    def _fix(self, name: str, known: list[str]) -> str:
        distribution = DISTRIBUTIONS.get(name)
        broken = [info for info in self.infos if info.problems and distribution in (None, info.distribution)]
        disabled = [info for info in self.infos if info.disabled and distribution in (None, info.distribution)]
        if distribution and broken:
            return f"{broken[0]} {broken[0].problems[0]}"
        if distribution and disabled:
            return f"{disabled[0]} is disabled by JOBS_DISABLE_PLUGINS"
        if distribution:
            return f"pip install {distribution}"
        near = foreign.close(name, known, 1)
        text = f"did you mean {near[0]!r}?" if near else f"installed: {', '.join(known) or 'none'}"
        return text + "".join(f"; {info} {info.problems[0]}" for info in broken)


def _make(
    factory: Any, info: PluginInfo, key: str, hook: str, name: str, hide: Callable[[str], str], /, *arguments: Any, **named: Any
) -> Any:
    """Call a plugin's factory; raise PluginError if it raises, or returns an object of the wrong type."""
    what = f"the factory of {PROVIDERS[hook]} {name!r}"
    if hook == "jobs_queue_backends" and arguments:
        hide = functools.partial(_without, str(arguments[0]))
    with guard.blaming(info, what, key=key, hide=hide), guard.without_stdout():
        made = factory(*arguments, **named)
        if not isinstance(made, MADE[hook]):
            raise PluginError(f"{key}: {info}: {what} returned {boundary.name_of(type(made))}, expected {MADE[hook].__name__}")
        return made


def _without(url: str, text: str) -> str:
    return text.replace(url, urls.redact(url))


def obeyed(implementation: Implementation, returns: type, arguments: Mapping[str, Any]) -> Any:
    """Call a hook whose failure makes the caller fail; raise PluginError if it raises, or returns a value of a wrong type.

    Each enqueue calls this, so it uses no context manager: that would double its cost.
    """
    try:
        answer = implementation.call(arguments)
    except JobsError:
        raise
    except BaseException as error:
        if boundary.passes(error):
            raise
        raise guard.blamed(implementation.info, f"hook {implementation.hook}", error) from error
    if answer is not None and not isinstance(answer, returns):
        kind, expected = boundary.name_of(type(answer)), returns.__name__
        raise PluginError(f"{implementation.info}: hook {implementation.hook} returned {kind}, expected {expected} or None")
    return answer


def guarded(implementation: Implementation, **arguments: Any) -> Any:
    """Call a hook; log its failure and continue. Returns its value, or None if it raised."""
    try:
        return implementation(**arguments)
    except BaseException as error:
        _survive(implementation, error)
        return None


def guarded_but_for_ours(implementation: Implementation, **arguments: Any) -> Any:
    """Call a hook as `guarded` does, but let a JobsError, which names key and fix, propagate to the caller."""
    try:
        return implementation(**arguments)
    except JobsError:
        raise
    except BaseException as error:
        _survive(implementation, error)
        return None


class _Unfailing:
    """A plugin's context manager around an enqueue: its own failures are logged, and it swallows no exception."""

    def __init__(self, implementation: Implementation, manager: AbstractContextManager[object]) -> None:
        self._implementation = implementation
        self._manager = manager
        self._entered = False

    def __enter__(self) -> None:
        try:
            self._manager.__enter__()
            self._entered = True
        except BaseException as error:
            _survive(self._implementation, error)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if not self._entered:
            return
        try:
            self._manager.__exit__(kind, error, traceback)
        except BaseException as own:
            if own is not error:
                _survive(self._implementation, own)


@contextmanager
def around(implementations: Sequence[Implementation], **arguments: Any) -> Iterator[None]:
    """Wrap a block in the context managers that hooks return; log the failures of hooks and managers, and continue."""
    with ExitStack() as stack:
        for implementation in implementations:
            manager = guarded(implementation, **arguments)
            if manager is not None:
                stack.enter_context(_Unfailing(implementation, manager))
        yield


def _survive(implementation: Implementation, error: BaseException) -> None:
    if boundary.passes(error):
        raise error
    text = "%s: hook %s failed; continuing without it"
    boundary.log(logger, logging.ERROR, text, str(implementation.info), implementation.hook, error=error)


def _hook_names() -> list[str]:
    return [name for name in hookspecs.__dict__ if name.startswith("jobs_")]
