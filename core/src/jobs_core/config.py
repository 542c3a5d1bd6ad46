"""jobs.toml as typed values: what can be set, its defaults, and what each key means.

The field comments below are the documentation: docs/configuration.md lists every key, and a test compares.
Reading and merging of the sources is in config_sources.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from .units import Duration, Size

PositiveInt = Annotated[int, Meta(ge=1)]
NonNegativeInt = Annotated[int, Meta(ge=0)]
Priority = Annotated[int, Meta(ge=0, le=9)]


class Section(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A table of the configuration."""


class Workers(Section, frozen=True, kw_only=True):
    """How many processes a pool may have."""

    min: NonNegativeInt = 1  # kept even when idle
    max: PositiveInt = 1  # never more, however long the backlog


class Pool(Section, frozen=True, kw_only=True):
    """Worker processes that serve an ordered list of topics."""

    topics: list[str] = field(default_factory=lambda: ["default"])  # strict order: the first with work is served
    workers: PositiveInt | Workers = 1  # a number is fixed; {min, max} grows by backlog and age, shrinks when idle
    mode: Literal["sync", "threads", "async"] = "sync"  # how one worker runs jobs
    concurrency: PositiveInt = 1  # jobs at once in one worker; async: thousands
    max_jobs: NonNegativeInt = 0  # then the worker is replaced, gracefully; 0: no limit
    max_age: Duration = Duration(3600)  # likewise; 0: no limit
    max_memory: Size | None = None  # likewise, by resident size; none: 500 MB more than at its start; 0: no limit
    stop_timeout: Duration = Duration(30)  # how long stop waits for running jobs
    timeout_grace: Duration = Duration(10)  # what a job gets after its timeout before its worker is replaced
    grow_age: Duration = Duration(3)  # the pool grows while its oldest ready job is older
    shrink_after: Duration = Duration(10)  # and shrinks by workers that have been idle so long
    preload: bool = True  # import the application once and fork workers from it
    preload_allow_native: bool = False  # fork although native libraries run threads of their own


class Topic(Section, frozen=True, kw_only=True):
    """Defaults and limits for the jobs of one topic."""

    retries: NonNegativeInt | None = None  # further attempts after the first
    timeout: Duration | None = None  # of one run
    backoff: Duration | None = None  # the first retry's longest wait; it doubles with every attempt
    priority: Priority | None = None  # 0 to 9, higher first
    expires: Duration | None = None  # a job not started by then goes to the dead letters
    acks: Literal["late", "early"] | None = None  # early: acknowledged before it runs, at most once
    store_result: bool | None = None  # keep what the function returns
    result_ttl: Duration = Duration(86400)  # how long results and cancelled jobs are kept
    default_job: str | None = None  # the job that takes plain JSON from foreign producers
    dead_keep: Duration = Duration(30 * 86400)  # dead letters older than this are dropped
    dead_max: NonNegativeInt = 100_000  # and the oldest beyond this number
    alert_above: PositiveInt | None = None  # alert while more jobs are ready
    alert_age: Duration | None = None  # alert while the oldest ready job is older


class Results(Section, frozen=True, kw_only=True):
    """Where results live if the backend has none of its own."""

    url: str | None = None  # of the backend that keeps them


class Logs(Section, frozen=True, kw_only=True):
    """Where log lines go and how they look."""

    file: str | None = None  # no file: standard error
    max_size: Size = Size(100 * 10**6)  # then the file is rotated; 0: never, something else does it
    keep: NonNegativeInt = 5  # rotated files kept
    format: Literal["text", "json"] = "text"  # a sentence or a JSON object a line
    level: Literal["debug", "info", "warning", "error"] = "info"  # what is said at least


class Http(Section, frozen=True, kw_only=True):
    """Probes and metrics; off by default."""

    listen: str | None = None  # "127.0.0.1:9000" or "unix:/path"


class Alerts(Section, frozen=True, kw_only=True):
    """Where backlog alerts go: channel name to its settings, for example {webhook = {url = "https://…"}}."""

    after: Duration = Duration(60)  # a topic must be over its limit this long
    repeat: Duration = Duration(180)  # and is not reported more often than this
    channels: dict[str, dict[str, Any]] = {}  # channel name to its settings: webhook = { url = "https://…" }


class ScheduleEntry(Section, frozen=True, kw_only=True):
    """One entry of the schedule: a job to enqueue by cron expression or interval."""

    job: str  # its registered name
    cron: str | None = None  # five fields, or six with seconds first
    every: Duration | None = None  # instead of cron
    tz: str = "UTC"  # the time zone of the cron expression
    args: list[Any] = []  # what the job is called with
    kwargs: dict[str, Any] = {}  # likewise, by name
    topic: str | None = None  # instead of the job's own
    missed: Literal["skip", "once"] = "once"  # ticks that fell into an outage: dropped, or run once


class Broker(Section, frozen=True, kw_only=True):
    """The ZeroMQ broker of jobs-zeromq."""

    embedded: bool = False  # the supervisor starts it
    store: str | None = None  # the SQLite URL that it keeps jobs in; none: broker.db in run_dir
    listen: list[str] = []  # where, as zmq+tcp://127.0.0.1:7788 or zmq+ipc:///path; none: where `backend` points
    keys: str | None = None  # the directory that `jobsctl broker keygen` made; none: no encryption, this machine only
    min_free: Size = Size(32 * 10**6)  # of the disk; jobs are refused below, so that queued ones can still be settled


class Config(Section, frozen=True, kw_only=True):
    """The whole configuration, every key with its default."""

    backend: str | None = None  # sqlite:///path  memory://  redis[s]://  amqp[s]://  zmq+tcp://; none: SQLite in run_dir
    modules: list[str] = []  # imported to define the jobs
    loader: str | None = None  # a job loader's name; none: the framework's own if it has one, else "modules"
    framework: str | None = None  # a bootstrapper's name; its settings in [framework name]
    run_dir: str = ".jobs"  # pid file, scoreboard, sockets; 0700
    lease: Duration = Duration(30)  # how long the jobs of a silent worker stay reserved
    max_message: Size = Size(10**6)  # larger messages are refused
    max_result: Size | None = None  # a larger result is not stored, its job is done; none: as max_message
    max_redeliveries: PositiveInt = 3  # a job alone in this many dying workers is dead
    signing_keys: list[str] = []  # "kid:secret"; the first signs, all verify
    enqueue_timeout: Duration = Duration(5)  # how long an enqueue outlasts an outage; it is a bound
    unknown_grace: Duration = Duration(600)  # a job of unknown name waits this long for newer workers
    prefix: str = "jobs"  # of the backend's keys and queues
    pools: dict[str, Pool] = field(default_factory=lambda: {"default": Pool()})
    topics: dict[str, Topic] = {}
    results: Results = Results()
    logs: Logs = Logs()
    http: Http = Http()
    alerts: Alerts = Alerts()
    schedule: dict[str, ScheduleEntry] = {}
    broker: Broker = Broker()
    plugins: dict[str, dict[str, Any]] = {}  # settings of plugins by name; [NAME] is short for the loader's and framework's
    base_dir: Path = Path()  # set by the reader, not a key: the directory that relative paths start from

    def topic(self, name: str) -> Topic:
        """The settings of a topic; defaults where the configuration has none."""
        return self.topics.get(name, _DEFAULT_TOPIC)

    def served_topics(self) -> set[str]:
        """Topics that some pool serves; others are produce-only."""
        return {topic for pool in self.pools.values() for topic in pool.topics}


_DEFAULT_TOPIC = Topic()
