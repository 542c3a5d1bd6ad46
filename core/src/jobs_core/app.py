"""The application: configuration, plugins, registry and backend of one process; enqueue lives here."""

from __future__ import annotations

import functools
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from . import config_sources, urls
from . import job as job_module
from .backends.auxstore import composed
from .backends.base import Backend, BackendOptions, JobRecord, Outgoing, Retention, State
from .config import Config
from .errors import (
    BackendUnavailable,
    ConfigError,
    DuplicateJob,
    JobDefinitionError,
    JobFailed,
    JobWasCancelled,
    NotSupported,
    ResultNotStored,
    ResultTimeout,
)
from .handle import JobHandle
from .job import Call, JobFunction
from .message import Message, Signer, UniqueKey, decode, encode, new_message
from .options import DEFAULT_TOPIC, NO_OVERRIDES, JobOptions, policy, stores_result, unique_key
from .plugins import Implementation, Plugins
from .producer import Producer
from .registry import Registry, default_registry

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")

RESULT_SLICE = 5.0
"""Longest single wait for a result in one call of the backend, seconds."""


class App:
    """What one process knows and holds. Any thread may use it; a fork may happen at any time between calls."""

    needs_transactions = True
    """Whether `on_commit=True` is an error where no plugin knows of transactions; tests' applications send at once."""

    def __init__(
        self,
        config: Config | None = None,
        *,
        plugins: Plugins | None = None,
        registry: Registry | None = None,
    ) -> None:
        self.config = config_sources.load().config if config is None else config
        self.plugins = Plugins.discover() if plugins is None else plugins
        self.registry = default_registry if registry is None else registry
        self.signer = Signer(self.config.signing_keys)
        self._before_enqueue: list[Implementation] | None = None
        self._hold_enqueue: list[Implementation] | None = None
        self._connect()
        _apps.add(self)

    def _connect(self) -> None:
        """Start without connections: at first, and in the child of every fork, where the parent's are not ours."""
        inherited = getattr(self, "_producer", None), getattr(self, "_idle", None)
        if any(inherited):
            _inherited.append(inherited)  # closing them would disturb the parent: keep them from the collector
        self._producer = Producer(self.new_backend)
        self._idle: list[Backend] = []
        self._idle_lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """Disconnect; using the application again connects again."""
        self._producer.close()
        with self._idle_lock:
            idle, self._idle = self._idle, []
        for backend in idle:
            backend.close()
        if self._threads:
            self._threads.shutdown(wait=False)
            self._threads = None

    # -- backends --------------------------------------------------------------------------------

    @property
    def backend_url(self) -> str:
        """Where jobs are kept: as configured, or SQLite in the run directory."""
        return self.config.backend or f"sqlite:///{self.run_dir / 'jobs.db'}"

    @property
    def run_dir(self) -> Path:
        """The directory for what belongs to one installation, absolute."""
        return self.config.base_dir / self.config.run_dir

    def new_backend(self, *, clock: Callable[[], float] | None = None) -> Backend:
        """An unopened backend as configured; raises ConfigError or PluginError."""
        with _making:
            return self._make_backend(clock)

    def _make_backend(self, clock: Callable[[], float] | None) -> Backend:
        url = self.backend_url
        scheme = urls.scheme(url)
        if not scheme:
            raise ConfigError(f'backend: expected a URL such as "sqlite:///jobs.db" or "redis://localhost", got "{url}"')
        factory = self.plugins.choose("jobs_queue_backends", scheme, "backend")
        if self.config.backend is None:
            private_directory(self.run_dir)
        backend = factory(url, self.backend_options(clock))
        if not isinstance(backend, Backend):
            raise ConfigError(f"backend: the factory for {scheme}:// made no Backend, but {type(backend).__name__}")
        if self.config.results.url and "results" not in backend.features:
            return composed(backend, self._results_store(self.config.results.url, clock))
        return backend

    def _results_store(self, url: str, clock: Callable[[], float] | None) -> Backend:
        """What `[results] url` names, unopened; its records have a prefix of their own."""
        scheme = urls.scheme(url)
        factory = self.plugins.choose("jobs_queue_backends", scheme, "results.url")
        options = self.backend_options(clock)
        settings = self.config.plugins.get(scheme, {})
        store: Backend = factory(url, replace(options, prefix=f"{options.prefix}.results", settings=settings))
        return store

    def backend_options(self, clock: Callable[[], float] | None = None) -> BackendOptions:
        """What the configuration says to a backend."""

        def retention(topic: str) -> Retention:
            settings = self.config.topic(topic)
            return Retention(float(settings.dead_keep), settings.dead_max)

        scheme = urls.scheme(self.backend_url)
        return BackendOptions(
            lease=float(self.config.lease),
            prefix=self.config.prefix,
            base_dir=self.config.base_dir,
            retention=retention,
            clock=clock,
            settings=self.config.plugins.get(scheme, {}),
            topics=tuple(sorted({*self.config.topics, *self.config.served_topics(), *self._topics_of_jobs()})),
            longest_run=self._longest_run,
        )

    def _topics_of_jobs(self) -> Iterable[str]:
        return (job.options.topic for job in self.registry if isinstance(job.options.topic, str))

    def _longest_run(self) -> float | None:
        """How long a job of this application may take, as far as it is loaded; None for without end."""
        limits = []
        for job in self.registry:
            topic = job.options.topic
            limits.append(policy(job.options, topic if isinstance(topic, str) else DEFAULT_TOPIC, self.config).timeout)
        return None if not limits or None in limits else max(limit for limit in limits if limit is not None)

    def operate(self, action: Callable[[Backend], T]) -> T:
        """Run an operator's call on a connection of its own, kept for the next."""
        with self._idle_lock:
            backend = self._idle.pop() if self._idle else None
        if backend is None:
            backend = self.new_backend()
            backend.open(None)
        try:
            return action(backend)
        finally:
            with self._idle_lock:
                self._idle.append(backend)

    # -- enqueue ---------------------------------------------------------------------------------

    def enqueue(self, call: Call[T]) -> JobHandle[T]:
        """Store one call durably; see `JobFunction.enqueue`."""
        return self._enqueue([call])[0]

    def enqueue_many(self, calls: Iterable[Call[T]]) -> list[JobHandle[T]]:
        """Store many calls in one round trip, in order; handles come in the same order.

        With `conflict="raise"` a duplicate is told after the others were stored.
        """
        return self._enqueue(list(calls))

    async def aenqueue(self, call: Call[T]) -> JobHandle[T]:
        """`enqueue` from an event loop."""
        return (await self._in_thread(lambda: self._enqueue([call])))[0]

    async def aenqueue_many(self, calls: Iterable[Call[T]]) -> list[JobHandle[T]]:
        """`enqueue_many` from an event loop."""
        given = list(calls)
        return await self._in_thread(lambda: self._enqueue(given))

    def _enqueue(self, calls: list[Call[T]]) -> list[JobHandle[T]]:
        if not calls:
            return []
        messages = [self.message(call) for call in calls]
        conflicts = self._deliver(calls, [self.outgoing(message) for message in messages])
        handles = [self.handle(call, message, conflicts) for call, message in zip(calls, messages, strict=True)]
        for message in messages if conflicts else ():
            if message.id in conflicts and message.unique and message.unique.conflict == "raise":
                raise DuplicateJob(
                    f"{message.job} with the unique key {message.unique.key!r} is enqueued already, as {conflicts[message.id]}",
                    existing_id=conflicts[message.id],
                )
        return handles

    def _deliver(self, calls: list[Call[T]], outgoing: list[Outgoing]) -> Mapping[str, str]:
        """Push, or leave it to a plugin to have it pushed when a transaction commits; conflicts known by now."""
        timeout = float(self.config.enqueue_timeout)
        if self._hold_enqueue is None:
            self._hold_enqueue = self.plugins.implementations("jobs_hold_enqueue")
        wanted = [_on_commit(call.job) for call in calls]
        if not self._hold_enqueue:
            if True in wanted and self.needs_transactions:
                raise JobDefinitionError(
                    f"{calls[wanted.index(True)].job.name}: on_commit: nothing here knows of transactions: "
                    "install the plugin of your framework (pip install jobs-django)"
                )
            return self._producer.push(outgoing, timeout)
        conflicts: dict[str, str] = {}
        for wish in dict.fromkeys(wanted):
            group = [item for item, other in zip(outgoing, wanted, strict=True) if other is wish]
            self._hold(wish, functools.partial(self._push_into, conflicts, group, timeout))
        return conflicts

    def _push_into(self, conflicts: dict[str, str], group: list[Outgoing], timeout: float) -> None:
        conflicts.update(self._producer.push(group, timeout))

    def _hold(self, wish: bool | None, send: Callable[[], None]) -> None:
        for implementation in self._hold_enqueue or ():
            if implementation(config=self.config, on_commit=wish, send=send):
                return
        if wish:
            raise JobDefinitionError(
                "on_commit: no framework is set up in this process: it is Django's plugin that knows of transactions"
            )
        send()

    def message(self, call: Call[Any]) -> Message:
        """The envelope of a call, checked and with every option resolved; raises ArgumentError or JobDefinitionError."""
        job = call.job
        if job.name.startswith("__main__."):
            raise JobDefinitionError(
                f"{job.name} is defined in the program that was started, which a worker imports under another name: "
                "move it to a module of its own, or name it, @job(name=...)"
            )
        job.arguments.check(call.args, call.kwargs)
        overrides = job.overrides
        options = overrides.over(job.options) if overrides is not NO_OVERRIDES else job.options
        topic = DEFAULT_TOPIC if options.topic is UNSET else options.topic
        settings = self.config.topics.get(topic)
        fields = self._envelope_fields(options, overrides, settings)
        if options.unique is not UNSET and options.unique is not None:
            fields["unique"] = self._unique_key(job, call, options)
        message = new_message(job.name, topic, call.args, call.kwargs, **fields)
        for implementation in self._hooks_before_enqueue():
            replacement = implementation(message=message)
            message = message if replacement is None else replacement
        return message

    def _envelope_fields(self, options: JobOptions, overrides: JobOptions, settings: Any) -> dict[str, Any]:
        """What the envelope says beyond name and arguments: only `using` writes what the worker resolves itself."""
        fields: dict[str, Any] = {}
        if overrides is not NO_OVERRIDES:
            for name in ("id", "retries", "timeout", "store_result"):
                if getattr(overrides, name) is not UNSET:
                    fields[name] = getattr(overrides, name)
        for name in ("delay", "key", "headers"):
            if getattr(options, name) is not UNSET:
                fields[name] = getattr(options, name)
        for name, field in (("priority", "priority"), ("expires", "expires_in")):
            value = getattr(options, name)
            if value is UNSET and settings is not None:
                value = getattr(settings, name)
            if value is not UNSET and value is not None:
                fields[field] = value if name == "priority" else float(value)
        return fields

    def _unique_key(self, job: JobFunction[Any, Any, Any], call: Call[Any], options: JobOptions) -> UniqueKey:
        assert options.unique
        return unique_key(options.unique, job.name, call.args, call.kwargs, lambda: job.arguments.named(call.args, call.kwargs))

    def outgoing(self, message: Message) -> Outgoing:
        """The message as a backend takes it; raises MessageError or MessageTooLarge."""
        payload = encode(message, signer=self.signer, limit=self.config.max_message)
        return Outgoing(message.id, message.topic, payload, message.priority, message.delay or 0.0, message.unique)

    def _hooks_before_enqueue(self) -> list[Implementation]:
        if self._before_enqueue is None:
            self._before_enqueue = self.plugins.implementations("jobs_before_enqueue")
        return self._before_enqueue

    def handle(self, call: Call[T], message: Message, conflicts: Mapping[str, str] | None = None) -> JobHandle[T]:
        """The handle of a message, or of the job that holds its unique key."""
        job_id = conflicts.get(message.id) if conflicts else None
        stores = message.store_result
        if stores is None:
            stores = stores_result(call.job.options, message.topic, self.config)
        return JobHandle(self, job_id or message.id, call.job, message.topic, stores_result=stores, created=job_id is None)

    def find_handle(self, job: JobFunction[Any, Any, T], job_id: str) -> JobHandle[T]:
        """A handle for an id; see `JobFunction.handle`. Whether a result is kept is found out when it is asked for."""
        topic = DEFAULT_TOPIC if job.options.topic is UNSET else job.options.topic
        return JobHandle(self, job_id, job, topic, stores_result=True, created=False)

    # -- following -------------------------------------------------------------------------------

    def status(self, job_id: str) -> State:
        """Where a job is; UNKNOWN also for one that is done and kept no result."""
        record = self.operate(lambda backend: backend.get(job_id))
        return record.state if record else State.UNKNOWN

    def find(self, job_id: str) -> JobRecord | None:
        """Everything the backend knows about a job; None if it is unknown, or done without a result that is kept."""
        return self.operate(lambda backend: backend.get(job_id))

    def read(self, record: JobRecord) -> Message:
        """The message of a record; raises MessageError."""
        default_job = self.config.topic(record.topic).default_job
        return decode(record.payload, signer=self.signer, topic=record.topic, default_job=default_job)

    def cancel(self, job_id: str) -> State:
        """Cancel a queued job, or ask a running one to end; its state afterwards."""
        return self.operate(lambda backend: backend.cancel(job_id))

    def result(self, handle: JobHandle[T], timeout: float | None) -> T:
        """Wait for a job's end and return what it returned; see `JobHandle.result`."""
        if not handle.stores_result:
            raise ResultNotStored(
                f"{handle.job.name} does not keep what it returns: say @job(store_result=True), "
                f"using(store_result=True) or topics.{handle.topic}.store_result = true"
            )
        record = self._ended(handle.id, timeout)
        if record is None:
            raise ResultTimeout(f"job {handle.id} has not ended within {timeout:g} s")
        return self._read_result(handle, record)

    async def aresult(self, handle: JobHandle[T], timeout: float | None) -> T:
        """`result` from an event loop."""
        return await self._in_thread(lambda: self.result(handle, timeout), shared=False)

    def _ended(self, job_id: str, timeout: float | None) -> JobRecord | None:
        """Wait in slices, so that an outage or an interrupt of the caller is noticed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = RESULT_SLICE if deadline is None else min(RESULT_SLICE, max(0.0, deadline - time.monotonic()))
            try:
                record = self.operate(functools.partial(_fetch, job_id, left))
            except BackendUnavailable:
                if deadline is not None and time.monotonic() >= deadline:
                    raise
                time.sleep(min(0.2, left))
                continue
            if record is not None or (deadline is not None and time.monotonic() >= deadline):
                return record

    def _read_result(self, handle: JobHandle[T], record: JobRecord) -> T:
        if record.state is State.CANCELLED:
            raise JobWasCancelled(f"job {handle.id} was cancelled")
        if record.state is State.DEAD:
            last = msgspec.json.decode(record.errors[-1]) if record.errors else {}
            error_type, text = last.get("type", ""), last.get("message", "")
            raise JobFailed(
                f"job {handle.id} is dead ({record.reason}): {error_type}: {text}".rstrip(": "),
                reason=record.reason,
                error_type=error_type,
                traceback=last.get("traceback", ""),
            )
        if record.result is None:
            raise ResultNotStored(f"job {handle.id} is unknown: it is done and its result has expired, or never was")
        stored = msgspec.json.decode(record.result)
        if "unstorable" in stored:
            raise ResultNotStored(f"job {handle.id} is done, but what it returned is no JSON: {stored['unstorable']}")
        return handle.job.convert_result(stored["value"])  # type: ignore[no-any-return]  # the handle's job is typed Any

    async def _in_thread(self, function: Callable[[], T], *, shared: bool = True) -> T:
        """Run on a thread: one for all enqueues, so that they combine; any for calls that wait long."""
        import asyncio  # half of this package's import time, and nothing to those who have no event loop
        from concurrent.futures import ThreadPoolExecutor

        if not shared:
            return await asyncio.to_thread(function)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="jobs-enqueue")
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)


def _on_commit(job: JobFunction[Any, Any, Any]) -> bool | None:
    """What `using`, else `@job`, says."""
    for options in (job.overrides, job.options):
        if options.on_commit is not UNSET:
            return options.on_commit
    return None


def _fetch(job_id: str, timeout: float, backend: Backend) -> JobRecord | None:
    return backend.fetch_result(job_id, timeout)


def private_directory(path: Path) -> Path:
    """Make a directory that only its owner may enter; raises ConfigError if it cannot be had."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable")
    except OSError as error:
        raise ConfigError(
            f"run_dir: {path} cannot be used: {error.strerror}: set run_dir to a directory this user may write"
        ) from None
    return path


_apps: weakref.WeakSet[App] = weakref.WeakSet()
_inherited: list[Any] = []
_current: App | None = None
_source: Callable[[], App | None] | None = None
_making = threading.RLock()
"""Held while an application or a backend is made, which may import modules. A fork waits for it: in its child an import
that another thread had begun would never end, and nobody could import that module."""


def current_app() -> App:
    """This process's application: the one that was set, else the framework's, else one made from the configuration."""
    global _current
    if _current is None:
        found = _source() if _source is not None else None
        if found is not None:
            return found
        with _making:
            if _current is None:
                _current = App()
    return _current


def set_current_app(app: App | None) -> None:
    """Make `app` the one that `enqueue` uses; None forgets it, and the next use makes one anew."""
    global _current
    _current = app


def set_app_source(source: Callable[[], App | None] | None) -> None:
    """Ask `source` for the application where none was set: a framework's plugin knows whose request this is."""
    global _source
    _source = source


def _after_fork() -> None:
    _making.release()
    for app in list(_apps):
        app._connect()


os.register_at_fork(before=_making.acquire, after_in_parent=_making.release, after_in_child=_after_fork)
job_module.set_application_source(current_app)

__all__ = ["App", "NotSupported", "current_app", "private_directory", "set_app_source", "set_current_app"]
