"""What an application has: configuration, plugins, registry, keys, and the backends made from them."""

from __future__ import annotations

import functools
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from .. import config_sources, guard, private, urls
from ..backends.auxstore import composed
from ..backends.base import Backend, BackendOptions, Outgoing, Retention
from ..backends.flows import Part
from ..backends.outbox import Outbox
from ..config import Config
from ..deadline import deadline as of_thread
from ..errors import ConfigError, NotSupported
from ..message import Signer
from ..options import DEFAULT_TOPIC, policy
from ..payloads import PayloadCodec, Payloads
from ..plugins import Plugins
from ..producer import Producer
from ..registry import Registry, default_registry
from ..uninterrupted import at_fork, let_in, uninterrupted

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")

EXPLAIN_PATIENCE = 0.5
"""Seconds by which a call may exceed its timeout, in order to say in its error what is known about the job, or to tidy up."""

making = threading.RLock()
"""Held while an application or a backend is created, which may import modules; a fork waits for it.

Otherwise the child might inherit the lock of a half-finished import, and never be able to import that module.
"""


class Resources:
    """The configuration, plugins, registry and connections of one process, which its application uses.

    Any thread may use it; a fork may happen at any time between calls.
    """

    needs_transactions = True
    """True if `on_commit=True` without a plugin that handles transactions is an error; tests set False and send at once."""

    warns_of_unserved = True
    """True if the first enqueue to a topic that no pool serves logs a warning; supervised workers set it to False."""

    def __init__(self, config: Config | None, plugins: Plugins | None, registry: Registry | None) -> None:
        if config is not None and not isinstance(config, Config):
            raise ConfigError(f"App: expected Config(...), got {type(config).__name__}: write App(Config(backend=...))")
        self.config: Config = config_sources.load().config if config is None else config
        self.plugins: Plugins = Plugins.discover(self.config.prefer) if plugins is None else plugins
        self.plugins.configure(self.config)
        self.registry: Registry = default_registry if registry is None else registry
        self.signer: Signer = Signer(self.config.signing_keys)
        self.payloads: Payloads = Payloads(self.config, self._codec)
        self._connect()
        _all.add(self)

    def _connect(self) -> None:
        """Start without connections: in a new application, and after a fork, whose child must not use the parent's."""
        inherited = getattr(self, "_producer", None), getattr(self, "_idle", None)
        if any(inherited):
            _inherited.append(inherited)  # kept, because the garbage collector would close them, and disturb the parent
        self._producer = Producer(self.new_backend)
        self._idle: list[Backend] = []
        self._idle_lock = threading.Lock()
        self._closings = 0
        self._threads: ThreadPoolExecutor | None = None

    def time_pushes(self, tell: Callable[[float], None]) -> None:
        """Have `tell` called with the seconds that each push took, by the thread that pushed; a forked child forgets it."""
        self._producer.timed = tell

    def close(self) -> None:
        """Disconnect; using the application again connects again."""
        self._producer.close()
        with self._idle_lock:
            idle, self._idle = self._idle, []
            self._closings += 1
        for backend in idle:
            backend.close()
        if self._threads:
            self._threads.shutdown(wait=False)
            self._threads = None

    def push(self, outgoing: list[Outgoing]) -> Mapping[str, str]:
        """Store messages durably, within `enqueue_timeout`; return conflicts by id. Raises BackendUnavailable."""
        try:
            return self._producer.push(outgoing, self.config.enqueue_timeout)
        finally:
            let_in()

    def push_part(self, part: Part, outgoing: list[Outgoing]) -> Mapping[str, str]:
        """Store a part of a flow as `push` stores messages; the caller calls `let_in` afterwards."""
        return self._producer.push_part(part, outgoing, self.config.enqueue_timeout)

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run a function that pushes on a thread of a small pool, in the order of the calls."""
        import asyncio  # late: half of this package's import time, and useless without an event loop
        from concurrent.futures import ThreadPoolExecutor

        if self._threads is None:
            self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="jobs-enqueue")
        in_turn = functools.partial(self._producer.in_turn, function, time.monotonic(), float(self.config.enqueue_timeout))
        return await asyncio.get_running_loop().run_in_executor(self._threads, in_turn)

    @property
    def backend_url(self) -> str:
        """Return the URL of the backend: as configured, or SQLite in the run directory."""
        if self.config.backend:
            return self.config.backend
        config_sources.require_utf8(self.run_dir, "the run directory")
        return urls.of_sqlite(self.run_dir / "jobs.db")

    @property
    def run_dir(self) -> Path:
        """Return the directory for the files of one installation, absolute."""
        return self.config.base_dir / self.config.run_dir

    def new_backend(self, *, clock: Callable[[], float] | None = None) -> Backend:
        """Return an unopened backend as configured; raise ConfigError or PluginError."""
        with making:
            return self._make_backend(clock)

    def _make_backend(self, clock: Callable[[], float] | None) -> Backend:
        url = self.backend_url
        scheme = urls.scheme(url)
        if not scheme:
            raise ConfigError(
                f'backend: expected a URL such as "sqlite:///jobs.db" or "redis://localhost", got "{urls.redact(url)}"'
            )
        factory = self.plugins.choose("jobs_queue_backends", scheme, "backend")
        if self.config.backend is None:
            private.directory_of_installation(self.run_dir)
        backend: Backend = factory(url, self.backend_options(clock))
        if self.config.results.url and "results" not in backend.features:
            return composed(backend, self.results_store(clock))
        return backend

    def results_store(self, clock: Callable[[], float] | None = None) -> Backend:
        """Return the unopened backend that `[results] url` names; it uses the prefix `<prefix>.results`."""
        url = self.config.results.url or ""
        scheme = urls.scheme(url)
        factory = self.plugins.choose("jobs_queue_backends", scheme, "results.url")
        options = self.backend_options(clock)
        settings = self.config.plugins.get(scheme, {})
        store: Backend = factory(url, replace(options, prefix=f"{options.prefix}.results", settings=settings))
        return store

    def new_outbox(self) -> Outbox:
        """Return the unopened outbox that `[outbox] url` names. Raises ConfigError or PluginError."""
        url = self.config.outbox.url or ""
        factory = self.plugins.choose("jobs_outboxes", urls.scheme(url), "outbox.url")
        outbox: Outbox = factory(url, self.config.prefix)
        return outbox

    def backend_options(self, clock: Callable[[], float] | None = None) -> BackendOptions:
        """Return the options that the configuration sets for a backend."""

        def retention(topic: str) -> Retention:
            settings = self.config.topic(topic)
            return Retention(float(settings.dead_keep), settings.dead_max, settings.done_max)

        scheme = urls.scheme(self.backend_url)
        return BackendOptions(
            lease=float(self.config.lease),
            prefix=self.config.prefix,
            base_dir=self.config.base_dir,
            retention=retention,
            clock=clock,
            settings=self.config.plugins.get(scheme, {}),
            topics=tuple(sorted({*self.config.topics, *self.config.served_topics(), *self.destinations()})),
            longest_run=self._longest_run,
            max_message=int(self.config.max_message),
            verify=self.signer.verify if self.signer else None,
        )

    def destinations(self) -> dict[str, list[str]]:
        """Return the topics that jobs and schedule of this application use by default, each with the names of its senders."""
        found: dict[str, list[str]] = {}
        for job in self.registry:
            topic = job.options.topic
            found.setdefault(topic if isinstance(topic, str) else DEFAULT_TOPIC, []).append(job.name)
        for name, entry in self.config.schedule.items():
            if entry.topic is not None:
                found.setdefault(entry.topic, []).append(f"schedule {name}")
        return found

    def _longest_run(self) -> float | None:
        """Return the longest timeout of the jobs that are registered so far, in seconds; None if one has no limit."""
        limits = []
        for job in self.registry:
            topic = job.options.topic
            limits.append(policy(job.options, topic if isinstance(topic, str) else DEFAULT_TOPIC, self.config).timeout)
        return None if not limits or None in limits else max(limit for limit in limits if limit is not None)

    def require(self, feature: str, fix: str) -> None:
        """Raise NotSupported, with the advice `fix`, if the backend does not have the feature."""
        backend = self.new_backend()
        if feature not in backend.features:
            raise NotSupported(feature, f"{backend.name}://", fix)

    def is_alone(self) -> bool:
        """Return whether this application has its queue to itself.

        That is so if the backend lives inside one process (`memory://`), and no other application of this process is connected.
        """
        return "multiprocess" not in self.new_backend().features and not any(
            other is not self and other._is_connected() and other.backend_url == self.backend_url for other in list(_all)
        )

    def _is_connected(self) -> bool:
        return bool(self._idle) or self._producer.connected

    def operate(self, action: Callable[[Backend], T]) -> T:
        """Run an operator's call on a connection apart from the producer's, which is kept for the next such call."""
        try:
            return self._operate(action)
        finally:
            let_in()

    def operate_briefly(self, action: Callable[[Backend], T]) -> T:
        """Call `operate` for something that an error needs: the backend may hang."""
        before, of_thread.at = of_thread.at, time.monotonic() + EXPLAIN_PATIENCE
        try:
            return self.operate(action)
        finally:
            of_thread.at = before

    @uninterrupted
    def _operate(self, action: Callable[[Backend], T]) -> T:
        with self._idle_lock:
            backend, closings = self._idle.pop() if self._idle else None, self._closings
        if backend is None:
            backend = self.new_backend()
            with self.blaming_backend():
                backend.open(None)
        try:
            with self.blaming_backend():
                return action(backend)
        finally:
            with self._idle_lock:
                is_open = closings == self._closings
                if is_open:
                    self._idle.append(backend)
            if not is_open:  # `close` was called meanwhile, and nobody else would close it
                backend.close()

    def blaming_backend(self) -> AbstractContextManager[None]:
        """Wrap calls of the backend: if a plugin's backend raises an error of another type than ours, blame the plugin."""
        scheme = urls.scheme(self.backend_url)
        plugin = self.plugins.provider("jobs_queue_backends", scheme)
        return nullcontext() if plugin is None else guard.blaming(plugin, f"the backend of {scheme}://", hide=urls.cover)

    def _codec(self, name: str, key: str) -> PayloadCodec:
        codec: PayloadCodec = self.plugins.choose("jobs_payload_codecs", name, key)()
        return codec


_all: weakref.WeakSet[Resources] = weakref.WeakSet()
_inherited: list[Any] = []


def _after_fork() -> None:
    making.release()
    for one in list(_all):
        one._connect()


at_fork(before=making.acquire, after_in_parent=making.release, after_in_child=_after_fork)
