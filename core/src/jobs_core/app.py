"""The application: configuration, plugins, registry and backend of one process, and the enqueue operation."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from . import boundary, config_sources, escapes, foreign, guard, private, urls
from .backends.auxstore import composed
from .backends.base import Backend, BackendOptions, JobRecord, Outgoing, Retention, State
from .backends.flows import Part
from .backends.outbox import Outbox
from .config import Config
from .deadline import deadline as of_thread
from .errors import (
    BackendError,
    BackendUnavailable,
    ConfigError,
    DuplicateJob,
    EndlessWait,
    FlowError,
    JobDefinitionError,
    JobFailed,
    JobsError,
    JobWasCancelled,
    NotSupported,
    PayloadError,
    ResultNotStored,
    ResultTimeout,
    ResultUnreadable,
    SignatureError,
    TransactionError,
    elsewhere,
)
from .handle import JobHandle
from .ids import new_id
from .job_function import Call, JobFunction, set_application_source
from .limiting import line_of
from .message import PACKED_VERSION, Message, Signer, UniqueKey, decode, encode, readable, too_large
from .options import DEFAULT_TOPIC, NO_OVERRIDES, Unique, encrypts, policy, stores_result, unique_key
from .payloads import PayloadCodec, Payloads
from .plugins import Implementation, Plugins, around, obeyed
from .producer import Producer
from .registry import AnyJob, Registry, default_registry
from .runs.running import may_be_in_job, running
from .stamp import Stamp, stamp_of
from .transactional import Transactions
from .uninterrupted import at_fork, let_in, uninterrupted

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from .following import JobProgress
    from .placeholders import Taken

T = TypeVar("T")

WARM_UP_PATIENCE = 2.0
"""Longest time that `warm_up` waits for a backend that does not answer, in seconds."""

RESULT_SLICE = 5.0
"""Longest single wait for a result in one call of the backend, in seconds."""

RESULT_SLICE_IN_JOB = 0.1
"""The same in a job on the main thread: its interruption cannot break into the call, and has to succeed within 250 ms."""

CHECKPOINTS = (
    "checkpoints",
    "a resumable job needs it: leave out resumable=True, or set [results] url, or choose a backend that has it: see "
    '"Backends" in the documentation',
)
"""The feature that resumable jobs need, and the advice where the backend lacks it."""

FLOWS = (
    "flows",
    f"its jobs cannot wait for one another: let each job enqueue the next (current_job().enqueue), or {elsewhere('flows')}",
)
"""The feature that flows, chains and groups need, and the advice where the backend lacks it."""

EXPLAIN_PATIENCE = 0.5
"""Seconds by which a call may exceed its timeout, in order to say in its error what is known about the job, or to tidy up."""


class App:
    """The configuration, plugins, registry and connections of one process.

    Any thread may use it; a fork may happen at any time between calls.
    """

    needs_transactions = True
    """True if `on_commit=True` without a plugin that handles transactions is an error; tests set False and send at once."""

    warns_of_unserved = True
    """True if the first enqueue to a topic that no pool serves logs a warning; supervised workers set it to False."""

    def __init__(
        self,
        config: Config | None = None,
        *,
        plugins: Plugins | None = None,
        registry: Registry | None = None,
    ) -> None:
        if config is not None and not isinstance(config, Config):
            raise ConfigError(f"App: expected Config(...), got {type(config).__name__}: write App(Config(backend=...))")
        self.config: Config = config_sources.load().config if config is None else config
        self.plugins: Plugins = Plugins.discover(self.config.prefer) if plugins is None else plugins
        self.plugins.configure(self.config)
        self.registry: Registry = default_registry if registry is None else registry
        self.signer: Signer = Signer(self.config.signing_keys)
        self._signs = self.signer or None
        self.payloads: Payloads = Payloads(self.config, self._codec)
        self._before_enqueue: list[Implementation] | None = None
        self._hold_enqueue: list[Implementation] | None = None
        self._stamps: dict[weakref.ref[AnyJob], Stamp] = {}  # a WeakKeyDictionary would cost a call for each enqueue
        self._topics_seen: set[str] = set()
        self._unopened: tuple[Config, Backend] | None = None  # asked only for its features
        self._transactions: Transactions | None = None
        self._open_transactions: list[Implementation] = []
        self._has_flows: Config | None = None  # the configuration whose backend is known to have flows
        self._enqueue_context: list[Implementation] = []
        self._bare = False  # True once the plugins were asked, and none wraps enqueues or holds them back until a commit
        self._connect()
        _apps.add(self)

    def _connect(self) -> None:
        """Start without connections: in a new application, and after a fork, whose child must not use the parent's."""
        inherited = getattr(self, "_producer", None), getattr(self, "_idle", None)
        if any(inherited):
            _inherited.append(inherited)  # kept, because the garbage collector would close them, and disturb the parent
        self._producer = Producer(self.new_backend)
        self._idle: list[Backend] = []
        self._idle_lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    def warm_up(self) -> None:
        """Find the plugins, import them, connect to the backend, and prepare it for the topics of the jobs defined so far.

        The first enqueue does not have to do this then.
        Call it at the start of a process that serves requests. If the backend cannot be reached, this logs a warning and
        returns: the first enqueue tries again. Raises ConfigError and PluginError.
        """
        self.plugins.implementations("jobs_before_enqueue")
        try:
            with self.blaming_backend():
                self._producer.open(WARM_UP_PATIENCE, sorted(self.destinations()))
        except BackendError as error:
            logging.getLogger("jobs").warning("the queue cannot be reached yet; the first enqueue tries again: %s", error)

    def time_pushes(self, tell: Callable[[float], None]) -> None:
        """Have `tell` called with the seconds that each push took, by the thread that pushed; a forked child forgets it."""
        self._producer.timed = tell

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
        with _making:
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
            private_directory(self.run_dir)
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

    def operate(self, action: Callable[[Backend], T]) -> T:
        """Run an operator's call on a connection apart from the producer's, which is kept for the next such call."""
        try:
            return self._operate(action)
        finally:
            let_in()

    @uninterrupted
    def _operate(self, action: Callable[[Backend], T]) -> T:
        with self._idle_lock:
            backend = self._idle.pop() if self._idle else None
        if backend is None:
            backend = self.new_backend()
            with self.blaming_backend():
                backend.open(None)
        try:
            with self.blaming_backend():
                return action(backend)
        finally:
            with self._idle_lock:
                self._idle.append(backend)

    def blaming_backend(self) -> AbstractContextManager[None]:
        """Wrap calls of the backend: if a plugin's backend raises an error of another type than ours, blame the plugin."""
        scheme = urls.scheme(self.backend_url)
        plugin = self.plugins.provider("jobs_queue_backends", scheme)
        return nullcontext() if plugin is None else guard.blaming(plugin, f"the backend of {scheme}://", hide=urls.cover)

    def _codec(self, name: str, key: str) -> PayloadCodec:
        codec: PayloadCodec = self.plugins.choose("jobs_payload_codecs", name, key)()
        return codec

    # -- enqueue ---------------------------------------------------------------------------------

    def enqueue(self, call: Call[T]) -> JobHandle[T]:
        """Store one call durably; see `JobFunction.enqueue`."""
        if not self._bare:
            return self._enqueue_with_hooks(call)
        stamp = self._stamp(call.job)
        outgoing, handle = self._made(call, stamp)
        conflicts = self._push([outgoing]) if stamp.bare else self._deliver((stamp,), [outgoing])
        if conflicts:
            _note_duplicates((handle,), (outgoing,), conflicts)
        return handle

    def _enqueue_with_hooks(self, call: Call[T]) -> JobHandle[T]:
        """Store one call: the first one, or if a plugin wraps enqueues or holds them back."""
        if self._hold_enqueue is None:
            self._ask_hooks()
        stamp = self._stamp(call.job)
        if not self._enqueue_context:
            return self._enqueue_held(call, stamp)
        with around(self._enqueue_context, what="job", job=call.job.name, topic=stamp.envelope.topic):
            return self._enqueue_held(call, stamp)

    def _enqueue_held(self, call: Call[T], stamp: Stamp) -> JobHandle[T]:
        """Store one call, or let a plugin hold it back."""
        outgoing, handle = self._made(call, stamp)
        conflicts = self._deliver((stamp,), [outgoing])
        if conflicts:
            _note_duplicates((handle,), (outgoing,), conflicts)
        return handle

    def _ask_hooks(self) -> None:
        """Ask the plugins once which of them wrap enqueues or hold them back; without any, an enqueue is the bare push."""
        if self._hold_enqueue is None:
            self._enqueue_context = self.plugins.implementations("jobs_enqueue_context")
            self._open_transactions = self.plugins.implementations("jobs_open_transactions")
            self._hold_enqueue = self.plugins.implementations("jobs_hold_enqueue")
            self._bare = not (self._enqueue_context or self._hold_enqueue or self._open_transactions)

    def enqueue_many(self, calls: Iterable[Call[T]]) -> list[JobHandle[T]]:
        """Store many calls in one round trip, in order; handles come in the same order.

        With `conflict="raise"`, a duplicate is reported after the others were stored.
        """
        if not self._bare:
            self._ask_hooks()
            with around(self._enqueue_context, what="batch", job=None, topic=None):
                return self._enqueue_many(calls)
        return self._enqueue_many(calls)

    def _enqueue_many(self, calls: Iterable[Call[T]]) -> list[JobHandle[T]]:
        job: AnyJob | None = None
        stamps: list[Stamp] = []
        handles: list[JobHandle[T]] = []
        outgoing: list[Outgoing] = []
        for call in calls:  # do not make a list of the iterator: objects that stay alive cost the garbage collector time
            if call.job is not job:
                job = call.job
                stamp = self._stamp(job)
            one, handle = self._made(call, stamp)
            stamps.append(stamp)
            outgoing.append(one)
            handles.append(handle)
        if not stamps:
            return []
        conflicts = self._deliver(stamps, outgoing)
        if conflicts:
            _note_duplicates(handles, outgoing, conflicts)
        if any(one.chosen for one in outgoing):
            _note_repeated(handles)
        return handles

    async def aenqueue(self, call: Call[T]) -> JobHandle[T]:
        """`enqueue` from an event loop."""
        if self._stamp(call.job).transaction is not None and self.needs_transactions:
            return (await self._aenqueue_together([call]))[0]
        return await self._in_thread(lambda: self.enqueue(call))

    async def aenqueue_many(self, calls: Iterable[Call[T]]) -> list[JobHandle[T]]:
        """`enqueue_many` from an event loop."""
        given = list(calls)
        if given and self._stamp(given[0].job).transaction is not None and self.needs_transactions:
            return await self._aenqueue_together(given)
        return await self._in_thread(lambda: self.enqueue_many(given))

    async def _aenqueue_together(self, calls: Sequence[Call[T]]) -> list[JobHandle[T]]:
        """Store calls that name a transaction, whose connection may be one for the event loop that runs this."""
        transaction = self._stamp(calls[0].job).transaction
        if any(self._stamp(call.job).transaction is not transaction for call in calls):
            raise TransactionError("transaction: the jobs of one aenqueue_many belong to one transaction, or to none")
        enlisted = self._joining().enlist(transaction)
        if not enlisted.awaits:
            return await self._in_thread(lambda: self.enqueue_many(calls))
        self._ask_hooks()
        what = {"what": "batch", "job": None, "topic": None}
        if len(calls) == 1:
            what = {"what": "job", "job": calls[0].job.name, "topic": self._stamp(calls[0].job).envelope.topic}
        with around(self._enqueue_context, **what):
            made = await self._in_thread(lambda: [self._made(call, self._stamp(call.job)) for call in calls])
            outgoing, handles = [one for one, _ in made], [handle for _, handle in made]
            _note_duplicates(handles, outgoing, await enlisted.apush(outgoing, float(self.config.enqueue_timeout)))
        _note_repeated(handles)
        return handles

    def _deliver(self, stamps: Sequence[Stamp], outgoing: list[Outgoing]) -> Mapping[str, str]:
        """Push now, or let a plugin push when a transaction commits; return the conflicts known so far."""
        if self._hold_enqueue is None:
            self._ask_hooks()
        wish, transaction = stamps[0].on_commit, stamps[0].transaction
        if len(stamps) > 1:
            wanted = [(stamp.on_commit, id(stamp.transaction)) for stamp in stamps]
            if wanted.count(wanted[0]) < len(wanted):
                if self._hold_enqueue or any(stamp.transaction is not transaction for stamp in stamps):
                    return self._deliver_apart(stamps, outgoing, wanted)
                wish = any(stamp.on_commit for stamp in stamps)
        if transaction is None and wish is not False and self._open_transactions and self._joining().automatic:
            transaction = self._joining().around_caller()
        if transaction is not None and self.needs_transactions:
            return self._joining().push(transaction, outgoing, float(self.config.enqueue_timeout))
        if not wish and not self._hold_enqueue:
            return self._push(outgoing)
        told: dict[str, str] = {}
        name = next((stamp.envelope.job for stamp in stamps if stamp.on_commit), None)
        if self._holds(wish, name, functools.partial(self._push_into, told, outgoing)):
            return told
        return self._push(outgoing)

    def _holds(self, wish: bool | None, name: str | None, send: Callable[[], None]) -> bool:
        """Return whether a plugin calls `send`, now or when a transaction commits; `name` is a job that wishes it."""
        if self._hold_enqueue is None:
            self._ask_hooks()
        if wish and not self._hold_enqueue and self.needs_transactions:
            raise JobDefinitionError(
                f"{name}: on_commit: no plugin here handles transactions: install the plugin of your framework (pip install "
                "jobs-django)"
            )
        for implementation in self._hold_enqueue or ():
            if obeyed(implementation, bool, {"config": self.config, "on_commit": wish, "send": send}):
                return True
        if wish and self._hold_enqueue:
            raise JobDefinitionError(
                "on_commit: no framework is set up in this process: only Django's plugin handles transactions"
            )
        return False

    def _push(self, outgoing: list[Outgoing]) -> Mapping[str, str]:
        try:
            return self._producer.push(outgoing, self.config.enqueue_timeout)
        finally:
            let_in()

    def _joining(self) -> Transactions:
        """Return what pushes into transactions of the application."""
        known = self._transactions
        if known is None or known.config is not self.config:
            self._ask_hooks()
            store = self.new_outbox() if self.config.outbox.url else self.new_backend()
            known = self._transactions = Transactions(self.config, store, self._open_transactions)
        return known

    def _deliver_apart(self, stamps: Sequence[Stamp], outgoing: list[Outgoing], wanted: Sequence[object]) -> Mapping[str, str]:
        """Deliver calls with different values of `on_commit` or `transaction` separately; each group keeps its order."""
        conflicts: dict[str, str] = {}
        for wish in dict.fromkeys(wanted):
            places = [n for n, other in enumerate(wanted) if other == wish]
            conflicts.update(self._deliver([stamps[n] for n in places], [outgoing[n] for n in places]))
        return conflicts

    def _push_into(self, conflicts: dict[str, str], group: list[Outgoing]) -> None:
        conflicts.update(self._push(group))

    def prepare(self, call: Call[T]) -> tuple[Outgoing, JobHandle[T]]:
        """Return a call in the form that the backend takes, and its handle; send nothing. Raises the errors of `enqueue`."""
        stamp = self._stamp(call.job)
        if stamp.transaction is not None:
            raise TransactionError(
                f"{call.job.name}: transaction: what a job enqueues with current_job() commits with its own end: leave it "
                "out, or call .enqueue(...) of the job function"
            )
        return self._made(call, stamp)

    def _made(self, call: Call[T], stamp: Stamp) -> tuple[Outgoing, JobHandle[T]]:
        """Return a call in the form that the backend takes, and its handle; raises what `message` and `outgoing` raise."""
        message = self._draft(call, stamp)
        if self._before_enqueue is None or self._before_enqueue:
            sent = self._hooked(message, call.job.name)
            return self.outgoing(sent, stamp.id is not None or sent.id != message.id), self._handle(call.job, sent, stamp)
        return (
            self.outgoing(message, stamp.id is not None),
            JobHandle(self, message.id, call.job, message.topic, stamp.stores_result),
        )

    def _stamp(self, job: AnyJob) -> Stamp:
        stamp = self._stamps.get(weakref.ref(job))
        if stamp is None or stamp.config is not self.config:
            stamp = stamp_of(job, self.config)
            if stamp.unique is not None and stamp.unique.longest is not None:
                self.require(
                    "debounce", 'leave out longest, or choose a backend that has it: see "Backends" in the documentation'
                )
            if job.options.resumable is True:
                self.require(*CHECKPOINTS)
            stamps = self._stamps
            stamps[weakref.ref(job, lambda gone: stamps.pop(gone, None))] = stamp
            if stamp.envelope.topic not in self._topics_seen:
                self._topics_seen.add(stamp.envelope.topic)
                self._warn_of_unserved(stamp.envelope.topic, job.name)
        return stamp

    def require(self, feature: str, fix: str) -> None:
        """Raise NotSupported, with the advice `fix`, if the backend does not have the feature."""
        backend = self.new_backend()
        if feature not in backend.features:
            raise NotSupported(feature, f"{backend.name}://", fix)

    def is_alone(self) -> bool:
        """Return whether this application has its queue to itself.

        That is so if the queue lives inside one process (`memory://`), and no other application of this process is connected.
        """
        return "multiprocess" not in self.new_backend().features and not any(
            other is not self and other._is_connected() and other.backend_url == self.backend_url for other in list(_apps)
        )

    def _is_connected(self) -> bool:
        return bool(self._idle) or self._producer.connected

    def _warn_of_unserved(self, topic: str, job: str) -> None:
        """Warn if no pool serves a topic.

        A configuration without modules, framework and pools is that of a mere producer: there, never warn.
        """
        config = self.config
        for_workers = config.modules or config.framework or config.pools.keys() != {"default"}
        if self.warns_of_unserved and for_workers and config.is_unserved(topic):
            from . import events  # late: only this case needs it

            logging.getLogger("jobs").warning("%s", events.TopicUnserved(topic, 0, [job]))

    def message(self, call: Call[Any]) -> Message:
        """Return the envelope of a call: arguments checked, options resolved. Raises ArgumentError or JobDefinitionError."""
        return self._message(call, self._stamp(call.job))

    def _message(self, call: Call[Any], stamp: Stamp) -> Message:
        return self._hooked(self._draft(call, stamp), call.job.name)

    def _draft(self, call: Call[Any], stamp: Stamp, takes: Taken | None = None) -> Message:
        """Return the envelope of a call before any hook."""
        job, args, kwargs = call.job, call.args, call.kwargs
        if takes is None:
            job.arguments.check(args, kwargs)
        now = time.time()
        message = replace(
            stamp.envelope if stamp.moments is None else stamp.moments.fill(stamp.envelope, self._now()),
            id=stamp.id or new_id(now),
            args=list(args),
            kwargs=dict(kwargs) if kwargs else {},
            enqueued_at=int(now * 1e6) / 1e6,  # a third of the cost of round()
            unique=stamp.unique and self._unique_key(call, stamp, stamp.unique),
        )
        if stamp.varies is not None:
            message = stamp.varies.fill(message, job, args, kwargs)
        if takes is not None:
            message = replace(
                message, v=PACKED_VERSION, args=takes.args, kwargs=takes.kwargs, results=takes.pointers, flow=takes.flow
            )
        return message

    def _hooked(self, message: Message, job: str) -> Message:
        """Return the envelope that hooks make of a message: another id, topic or headers, for example."""
        if self._before_enqueue is None:
            self._before_enqueue = self.plugins.implementations("jobs_before_enqueue")
        for implementation in self._before_enqueue:
            replacement = obeyed(implementation, Message, {"message": message})
            if replacement is not None:
                message = replacement
                readable(message, job)
        return message

    def _now(self) -> float:
        """Return the Unix time from which `at` and `expires_at` are converted to delays; tests override it."""
        return time.time()

    def renewed(self, job: AnyJob, sent: Outgoing) -> Outgoing:
        """Return a message that is sent later than it was made, with its `at` and `expires_at` as delays from now."""
        moments = self._stamp(job).moments
        if moments is None:
            return sent
        try:
            message = moments.fill(decode(sent.payload, signer=self.signer, topic=sent.topic), self._now())
            made = self.outgoing(message, sent.chosen)
            return made if sent.member is None else replace(made, member=sent.member)
        except JobsError:  # by now it has expired, or would be too large: send it as it was made
            return sent

    def _unique_key(self, call: Call[Any], stamp: Stamp, unique: Unique) -> UniqueKey:
        job = call.job
        made = unique_key(unique, job.name, call.args, call.kwargs, lambda: job.arguments.named(call.args, call.kwargs))
        return replace(made, key=self.payloads.unique_key(job.name, made.key)) if stamp.encrypts else made

    def outgoing(self, message: Message, chosen: bool = True, *, may_store: bool = True) -> Outgoing:
        """Return the message in the form that a backend takes; raises MessageError or MessageTooLarge.

        `chosen` makes the backend check whether the id exists already. An id that `message` made is new: pass False.
        Raises PayloadStoreUnavailable if the message needs a blob that cannot be written, or may not (`may_store`).
        """
        payload = self._packed(message, may_store) if self.payloads.packs else self._plain(message)
        if message.key is None and not message.limits:
            return Outgoing(message.id, message.topic, payload, message.priority, message.delay or 0.0, message.unique, chosen)
        if self._unopened is None or self._unopened[0] is not self.config:
            self._unopened = self.config, self.new_backend()
        key, limits = line_of(message, *self._unopened)
        return Outgoing(
            message.id, message.topic, payload, message.priority, message.delay or 0.0, message.unique, chosen, key, limits
        )

    def rehearsed(self, call: Call[Any]) -> Outgoing:
        """Return a call for a queue that runs it here and now: due at once, without unique key, fair key and limits.

        So it needs none of the backend's features. Raises the errors of `message`, MessageError and MessageTooLarge.
        """
        message = self._message(call, stamp_of(call.job, self.config))
        payload = self._packed(message, True) if self.payloads.packs else self._plain(message)
        return Outgoing(message.id, message.topic, payload)

    def payload_of(self, message: Message) -> bytes:
        """Return the bytes of a message that takes the place of another: packed if they have to be, and signed."""
        return self._packed(message, True) if self.payloads.packs else self._plain(message)

    def _plain(self, message: Message) -> bytes:
        return encode(message, signer=self._signs, limit=self.config.max_message)

    def _packed(self, message: Message, may_store: bool) -> bytes:
        """Return the bytes of a message, packed if it has to be; jobs that are not registered here follow their topic."""
        job = self.registry.get(message.job or "")
        message, payload = self.payloads.encode(
            message, encrypts(NO_OVERRIDES if job is None else job.options, message.topic, self.config), may_store=may_store
        )
        if len(payload) > self.config.max_message:
            raise too_large(message, payload, self.config.max_message)
        return self._signs.sign(payload) if self._signs else payload

    def _handle(self, job: JobFunction[Any, Any, T], message: Message, stamp: Stamp) -> JobHandle[T]:
        stores, topic = message.store_result, message.topic
        if topic is stamp.envelope.topic and stores is stamp.envelope.store_result:
            stores = stamp.stores_result
        elif stores is None:  # a hook has sent it to another topic
            stores = stores_result(job.options, topic, self.config)
        return JobHandle(self, message.id, job, topic, stores)

    def find_handle(self, job: JobFunction[Any, Any, T], job_id: str) -> JobHandle[T]:
        """Return a handle for an id; see `JobFunction.handle`. Only `result` finds out whether the job stores its result."""
        topic = DEFAULT_TOPIC if job.options.topic is UNSET else job.options.topic
        return JobHandle(self, job_id, job, topic, stores_result=True, created=False)

    # -- flows ---------------------------------------------------------------------------------------

    def prepare_member(self, call: Call[T], takes: Taken | None, headers: Mapping[str, Any]) -> tuple[Outgoing, JobHandle[T]]:
        """Return a call as a member of a flow in the form that the backend takes, and its handle; send nothing.

        `headers` are those of the flow. Raises FlowError for options that a member cannot have, and the errors of `enqueue`.
        """
        self._require_flows()
        job, stamp = call.job, self._stamp(call.job)
        if stamp.transaction is not None:
            raise FlowError(f"{job.name}: transaction: a flow is stored as a whole: write Flow(transaction=...)")
        if stamp.unique is not None and stamp.unique.conflict == "replace":
            raise FlowError(
                f"{job.name}: unique: a member of a flow cannot replace a job or be replaced, because others wait for it: use "
                'using(unique=None), or another conflict than "replace"'
            )
        options = job.options  # `using` has no acks
        acks = self.config.topic(stamp.envelope.topic).acks if options.acks is UNSET else options.acks
        if acks == "early" and options.resumable is not True:
            raise FlowError(
                f'{job.name}: acks: a job that is acknowledged before it runs (acks="early") cannot be a member of a flow, '
                'since what waits for it would start too soon: use acks="late"'
            )
        if headers:
            stamp = replace(stamp, envelope=replace(stamp.envelope, headers={**headers, **stamp.envelope.headers}))
        if takes is not None:
            job.arguments.check_all_but(call.args, call.kwargs, takes.parameters)
        try:
            draft = self._draft(call, stamp, takes)
        except FlowError as error:  # a template or function used a result that does not exist yet
            if takes is None:
                raise
            raise FlowError(
                f"{job.name}: unique, key and limits are computed when the flow is sent, and cannot depend on a result: {error}"
            ) from None
        message = self._hooked(draft, job.name)
        chosen = stamp.id is not None or message.id != draft.id
        return self.outgoing(message, chosen), self._handle(job, message, stamp)

    def _require_flows(self) -> None:
        if self._has_flows is not self.config:
            self.require(*FLOWS)
            self._has_flows = self.config

    def push_flow(
        self,
        parts: Sequence[tuple[Part, list[Outgoing]]],
        jobs: Iterable[JobFunction[Any, Any, Any]],
        transaction: object = None,
    ) -> None:
        """Store a flow durably, in a transaction, or when one commits. Raises DuplicateJob, TransactionError, BackendError."""
        self._require_flows()
        wishing = [job.name for job in jobs if self._stamp(job).on_commit]
        send = functools.partial(self._push_parts, parts)
        self._ask_hooks()
        with around(self._enqueue_context, what="flow", job=None, topic=None):
            if transaction is None and self._open_transactions and self._joining().automatic:
                transaction = self._joining().around_caller()
            if transaction is not None and self.needs_transactions:
                enlisted = self._joining().enlist(transaction)
                self._refuse_members(parts, enlisted.push_flow(parts, float(self.config.enqueue_timeout)))
            elif not self._holds(True if wishing else None, wishing[0] if wishing else None, send):
                send()

    async def apush_flow(
        self,
        parts: Sequence[tuple[Part, list[Outgoing]]],
        jobs: Iterable[JobFunction[Any, Any, Any]],
        transaction: object = None,
    ) -> None:
        """`push_flow` from an event loop, on whose connection the transaction may be."""
        if transaction is not None and self.needs_transactions:
            self._require_flows()
            enlisted = self._joining().enlist(transaction)
            if enlisted.awaits:
                with around(self._enqueue_context, what="flow", job=None, topic=None):
                    conflicts = await enlisted.apush_flow(parts, float(self.config.enqueue_timeout))
                    self._refuse_members(parts, conflicts)
                return
        await self._in_thread(lambda: self.push_flow(parts, jobs, transaction))

    def _refuse_members(self, parts: Sequence[tuple[Part, list[Outgoing]]], conflicts: Mapping[str, str]) -> None:
        """Raise DuplicateJob for the first member that was refused."""
        for part, outgoing in parts if conflicts else ():
            for message in outgoing:
                if message.id in conflicts:
                    holder = conflicts[message.id]
                    raise _refused_member(part, message, holder, self._about_holder(holder))

    def _push_parts(self, parts: Sequence[tuple[Part, list[Outgoing]]]) -> None:
        try:
            for part, outgoing in parts:
                conflicts = self._producer.push_part(part, outgoing, self.config.enqueue_timeout)
                self._refuse_members([(part, outgoing)], conflicts)
        except BaseException:  # Ctrl-C, too: what was sent would hold its unique keys until the flow is dropped
            if len(parts) > 1:
                self._drop_unfinished(parts[0][0].flow)
            raise
        finally:
            let_in()

    def _drop_unfinished(self, flow_id: str) -> None:
        """Drop a flow of which not all parts were sent; if that fails, log how to. One whose last part has arrived stays."""

        def drop(backend: Backend) -> None:
            found = backend.flow(flow_id)
            if found is not None and found.state == "open":
                backend.cancel_flow(flow_id)

        try:
            self._operate_briefly(drop)
        except JobsError as error:
            logging.getLogger("jobs").warning(
                "flow %s was not sent completely, and could not be dropped: its members hold their unique keys until `jobsctl "
                "flow cancel %s`, or until its open_for is over: %s",
                flow_id,
                flow_id,
                boundary.text_of(error),
            )

    def _about_holder(self, job_id: str) -> str:
        """Say how to free the unique key of a job if it belongs to a flow that was sent in part; else return nothing."""
        with contextlib.suppress(BackendError):
            record = self._operate_briefly(lambda backend: backend.get(job_id))
            if record is not None and record.member is not None:
                flow_id = record.member.flow
                found = self._operate_briefly(lambda backend: backend.flow(flow_id))
                if found is not None and found.state == "open":
                    return (
                        f". It is in flow {flow_id}, which has not been sent completely: if its sender has died, "
                        f"`jobsctl flow cancel {flow_id}` frees the key"
                    )
        return ""

    def _operate_briefly(self, action: Callable[[Backend], T]) -> T:
        """Call `operate` for something that an error needs: the backend may hang."""
        before, of_thread.at = of_thread.at, time.monotonic() + EXPLAIN_PATIENCE
        try:
            return self.operate(action)
        finally:
            of_thread.at = before

    def flow_result(self, flow: str, job_id: str, stored: bytes) -> Any:
        """Return the value of a member's stored result as plain JSON; with signing keys, only if its signature is right.

        Raises PayloadError.
        """
        if self.signer:
            try:
                stored = self.signer.verify_result(flow, job_id, stored)
            except SignatureError as error:
                raise PayloadError(str(error)) from None
        try:
            document: dict[str, Any] = msgspec.json.decode(self.payloads.unpack_result(job_id, stored))
        except msgspec.DecodeError as error:
            raise PayloadError(f"it is damaged: {error}") from None
        if "value" not in document:
            raise PayloadError(f"it was not stored: {document.get('unstorable', 'it has no value')}")
        return document["value"]

    def may_be_in_job(self) -> bool:
        """Return whether a job may have to wait for the caller."""
        return may_be_in_job()

    # -- status and results -------------------------------------------------------------------------

    def status(self, job_id: str) -> State:
        """Return the state of a job; UNKNOWN if it never existed, or finished without a stored result."""
        record = self.operate(lambda backend: backend.get(job_id))
        if record is None and self.config.outbox.url and self._joining().holds(job_id):
            return State.SCHEDULED
        return record.state if record else State.UNKNOWN

    def find(self, job_id: str) -> JobRecord | None:
        """Return everything the backend knows about a job; None if it never existed, or finished without a stored result."""
        return self.operate(lambda backend: backend.get(job_id))

    def progress(self, job_id: str) -> JobProgress:
        """Return what a job last told; see `JobHandle.progress`."""
        from .following import progress_of  # late: most producers follow no job

        record = self.find(job_id)
        told = self.payloads.unpack_note(job_id, record.notes.progress) if record is not None and record.notes.progress else b""
        return progress_of(job_id, record, told, self)

    async def aprogress(self, job_id: str) -> JobProgress:
        """`progress` from an event loop."""
        return await self._in_thread(lambda: self.progress(job_id), shared=False)

    def read(self, record: JobRecord) -> Message:
        """Return the message of a record with its arguments; raises MessageError."""
        return self.payloads.unpacked(self.envelope(record))

    def envelope(self, record: JobRecord) -> Message:
        """Return the message of a record as it is stored, perhaps with packed arguments; raises MessageError."""
        default_job = self.config.topic(record.topic).default_job
        return decode(record.payload, signer=self.signer, topic=record.topic, default_job=default_job)

    def clean_payloads(self) -> int:
        """Delete the blobs of jobs that no longer exist from the payload store; return how many. See docs/payloads.md."""
        from .payloads.cleaning import clean  # late: only operators need it

        store, settings = self.payloads.store, self.config.payloads
        if store is None:
            return 0
        looks_up = self.operate(lambda backend: "lookup" in backend.features)
        return clean(
            store,
            find=self.find if looks_up else None,
            envelope=self.envelope,
            grace=float(settings.grace),
            keep=float(settings.keep),
        )

    def clean_payloads_soon(self) -> None:
        """Clean the payload store on a thread of its own: a store may be far away."""
        threading.Thread(target=self._clean_payloads_or_log, name="jobs-payloads-cleaning", daemon=True).start()

    def _clean_payloads_or_log(self) -> None:
        try:
            self.clean_payloads()
        except BackendError as error:
            logging.getLogger("jobs").warning(
                "the payload store was not cleaned; it is tried again in an hour: %s", boundary.text_of(error)
            )

    def cancel(self, job_id: str, *, force: bool = False) -> State:
        """Cancel a queued job, or request the end of a running one; return its state afterwards. See `JobHandle.cancel`."""
        if not force:
            return self.operate(lambda backend: backend.cancel(job_id))
        return self.operate(lambda backend: backend.cancel(job_id, force=True))

    def result(self, handle: JobHandle[T], timeout: float | None) -> T:
        """Wait until a job has ended, and return its result; see `JobHandle.result`."""
        self._may_wait(handle, timeout)
        return self._result(handle, timeout)

    async def aresult(self, handle: JobHandle[T], timeout: float | None) -> T:
        """`result` from an event loop."""
        self._may_wait(handle, timeout)
        return await self._in_thread(lambda: self._result(handle, timeout), shared=False)

    def _may_wait(self, handle: JobHandle[T], timeout: float | None) -> None:
        """Raise ResultNotStored if the job stores no result, or EndlessWait if the wait might never end."""
        if not handle.stores_result:
            raise ResultNotStored(
                f"{handle.job.name} does not store its result: use @job(store_result=True), "
                f"using(store_result=True) or topics.{handle.topic}.store_result = true"
            )
        if (timeout is None or timeout == float("inf")) and may_be_in_job():
            who = "a job" if running.get() is not None else "a thread in a worker, which may be a job's,"
            raise EndlessWait(
                f"{who} waits for the result of {handle.job.name} without a timeout: if every job running in its pool does "
                "so, none of them ever ends. Pass result(timeout=…), or let the other job enqueue the follow-up"
            )

    def _result(self, handle: JobHandle[T], timeout: float | None) -> T:
        record = self._ended(handle.id, timeout)
        if record is None:
            raise ResultTimeout(f"job {handle.id} has not ended within {timeout:g} s{self._explain_timeout(handle.id)}")
        return self._read_result(handle, record)

    def _explain_timeout(self, job_id: str) -> str:
        """Explain the state of a job whose result did not arrive in time; stop after EXPLAIN_PATIENCE: the backend may hang."""
        from .unfinished import OnThisMachine, unfinished  # late: only a wait that has timed out needs it

        here = OnThisMachine(self.run_dir, self.backend_url)
        try:
            reasons = self._operate_briefly(lambda backend: unfinished(self.config, here, backend, job_id))
        except BackendError:
            return ""
        return f": {'; '.join(reasons)}. `jobsctl why {job_id}` tells more" if reasons else ""

    def _ended(self, job_id: str, timeout: float | None) -> JobRecord | None:
        """Return the record of an ended job; None on timeout. Wait in slices, to notice outages and the caller's interrupts."""
        deadline = None if timeout is None else time.monotonic() + timeout
        in_job = running.get() is not None and threading.current_thread() is threading.main_thread()
        longest = RESULT_SLICE_IN_JOB if in_job else RESULT_SLICE
        while True:
            left = longest if deadline is None else min(longest, max(0.0, deadline - time.monotonic()))
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
            told = text if error_type == record.reason else f"{error_type}: {text}"  # of a job that never ran, it is the reason
            raise JobFailed(
                escapes.lines(f"job {handle.id} is dead ({record.reason}): {told}".rstrip(": ")),
                reason=record.reason,
                error_type=error_type,
                traceback=last.get("traceback", ""),
            )
        if record.result is None:
            raise ResultNotStored(f"job {handle.id} is unknown: it finished and its result has expired, or it never existed")
        stored = self.stored_result(record.id, record.result)
        if "unstorable" in stored:
            raise ResultNotStored(f"job {handle.id} is done, but its result was not stored: {stored['unstorable']}")
        return handle.job.convert_result(stored["value"])  # type: ignore[no-any-return]  # the handle's job is typed Any

    def stored_result(self, job_id: str, stored: bytes) -> dict[str, Any]:
        """Decode a job's stored result: a dict with its `value`, or with the reason why it is `unstorable`.

        Raises ResultUnreadable, for example if this process does not have the encryption key.
        """
        try:
            plain = self.payloads.unpack_result(job_id, stored)
        except PayloadError as error:
            raise ResultUnreadable(f"job {job_id} is done, but its result {error}") from None
        document: dict[str, Any] = msgspec.json.decode(plain)
        return document

    async def _in_thread(self, function: Callable[[], T], *, shared: bool = True) -> T:
        """Run a function on a thread: of a small pool for enqueues, or, with `shared=False`, for calls that wait long."""
        import asyncio  # late: half of this package's import time, and useless without an event loop
        from concurrent.futures import ThreadPoolExecutor

        if not shared:
            return await asyncio.to_thread(function)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="jobs-enqueue")
        if not self._bare:  # a plugin may look for the caller's context, such as its span
            function = functools.partial(contextvars.copy_context().run, function)
        in_turn = functools.partial(self._producer.in_turn, function, time.monotonic(), float(self.config.enqueue_timeout))
        return await asyncio.get_running_loop().run_in_executor(self._threads, in_turn)


foreign.teach(App, foreign.APP)


def _note_duplicates(handles: Sequence[JobHandle[Any]], sent: Sequence[Outgoing], conflicts: Mapping[str, str]) -> None:
    """Point the handles of duplicates at the existing jobs; raise DuplicateJob for the first with `conflict="raise"`."""
    refused: DuplicateJob | None = None
    for handle, message in zip(handles, sent, strict=True):
        holder = conflicts.get(message.id)
        if holder is None:
            continue
        handle.id, handle.created = holder, False
        if holder != message.id and message.unique and message.unique.conflict == "raise" and refused is None:
            refused = DuplicateJob(
                f"{handle.job.name} with the unique key {message.unique.key!r} is already enqueued, as {holder}",
                existing_id=holder,
            )
    if refused:
        raise refused


def _refused_member(part: Part, refused: Outgoing, holder: str, about: str) -> DuplicateJob:
    job = refused.member.label if refused.member is not None else ""
    if holder == refused.id:
        why = "there is a job with this id already"
    else:
        why = f"job {holder} holds its unique key" + (f" {refused.unique.key!r}" if refused.unique is not None else "")
    name = f"flow {part.name}" if part.name else f"flow {part.flow}"
    return DuplicateJob(f"{name} was not sent: its member {job} {refused.id} was refused: {why}{about}", existing_id=holder)


def _note_repeated(handles: Sequence[JobHandle[Any]]) -> None:
    """If an id occurs several times in one call, mark only its first handle as `created`."""
    seen: set[str] = set()
    for handle in handles:
        if handle.id in seen:
            handle.created = False
        seen.add(handle.id)


def _fetch(job_id: str, timeout: float, backend: Backend) -> JobRecord | None:
    return backend.fetch_result(job_id, timeout)


def private_directory(path: Path) -> Path:
    """Create a directory that only its owner may enter; raise ConfigError if this fails, or others may enter it."""
    try:
        private.directory(path)
        if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable")
    except OSError as error:
        raise ConfigError(
            f"run_dir: {path} cannot be used: {error.strerror}: set run_dir to a directory that this user may write to"
        ) from None
    return path


_apps: weakref.WeakSet[App] = weakref.WeakSet()
_inherited: list[Any] = []
_current: App | None = None
_source: Callable[[], App | None] | None = None
_making = threading.RLock()
"""Held while an application or a backend is created, which may import modules; a fork waits for it.

Otherwise the child might inherit the lock of a half-finished import, and never be able to import that module.
"""


def current_app() -> App:
    """Return this process's application: set explicitly, provided by a framework, or created from the configuration."""
    global _current
    if _current is None:
        found = _source() if _source is not None else None
        if found is not None:
            return found
        with _making:
            if _current is None:
                _current = App(_configuration())
    return _current


def warm_up() -> None:
    """Warm up this process's application: see `App.warm_up`."""
    current_app().warm_up()


def _configuration() -> Config:
    """Return the configuration of a process that enqueues.

    A server or a cron job may be started in any directory. If the usual search finds no file, search beside and above the
    modules that define jobs, and warn once.
    """
    found = config_sources.load()
    if found.file is not None or found.config.backend is not None:
        return found.config
    for module in sorted({job.function.__code__.co_filename for job in default_registry if hasattr(job.function, "__code__")}):
        beside = config_sources.load(cwd=Path(module).parent) if os.path.isabs(module) else found
        if beside.file is not None:
            _warn(f"using {beside.file}, found from {module}, because there is none in {found.directory} or above")
            return beside.config
    where = found.config.base_dir / found.config.run_dir
    _warn(f"no jobs.toml in {found.directory} or above, nor next to the modules that define jobs: jobs are kept in {where}")
    return found.config


def _warn(what: str) -> None:
    warnings.warn(f"jobs: {what}. Set JOBS_CONFIG to the file to use, or JOBS_BACKEND", RuntimeWarning, stacklevel=5)


def set_current_app(app: App | None) -> None:
    """Make `app` the application that `enqueue` uses; with None, the next use creates a new one."""
    global _current
    _current = app


def set_app_source(source: Callable[[], App | None] | None) -> Callable[[], App | None] | None:
    """Ask `source` for the application whenever none was set; return the previous source.

    A framework's plugin sets it, because it knows to which application a request belongs.
    """
    global _source
    before, _source = _source, source
    return before


def _after_fork() -> None:
    _making.release()
    for app in list(_apps):
        app._connect()


at_fork(before=_making.acquire, after_in_parent=_making.release, after_in_child=_after_fork)
set_application_source(current_app)

__all__ = ["App", "NotSupported", "current_app", "private_directory", "set_app_source", "set_current_app", "warm_up"]
