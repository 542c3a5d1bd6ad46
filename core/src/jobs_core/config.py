"""jobs.toml as typed values: the keys, their defaults, and their meanings.

The field comments below are the documentation: docs/configuration.md is generated from them, and a test compares.
config_sources.py reads and merges the sources. The rule in a key's annotation (config_rules.py) restricts its values beyond
the type. The reader applies all rules, so that a command refuses a bad value at once instead of failing later.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from . import config_rules as rules
from .config_types import Typed
from .units import Duration, Size


def _rule(check: rules.Rule) -> Meta:
    return Meta(extra={"rule": check})


MOST = 10**12
"""The largest value of any count: it fits into every store's integers, and no one needs more."""

PositiveInt = Annotated[int, Meta(ge=1, le=MOST)]
NonNegativeInt = Annotated[int, Meta(ge=0, le=MOST)]
Priority = Annotated[int, Meta(ge=0, le=9)]
Processes = Annotated[int, Meta(ge=1, le=10_000)]
ProcessesOrNone = Annotated[int, Meta(ge=0, le=10_000)]
Concurrency = Annotated[int, Meta(ge=1, le=100_000)]
Retries = Annotated[int, Meta(ge=0, le=1_000_000)]
Redeliveries = Annotated[int, Meta(ge=1, le=1000)]
Files = Annotated[int, Meta(ge=0, le=10_000)]

Seconds = Annotated[Duration, _rule(rules.seconds())]
Lease = Annotated[Duration, _rule(rules.seconds(0.1, 7 * 86400))]
Interval = Annotated[Duration, _rule(rules.seconds(1.0))]
MemoryLimit = Annotated[Size, _rule(rules.size_or_none(16 * 10**6))]
FileLimit = Annotated[Size, _rule(rules.size_or_none(1000))]
MessageLimit = Annotated[Size, _rule(rules.size(1, 512 * 10**6))]
NonNegativeSize = Annotated[Size, _rule(rules.size(0))]
DiskSpace = Annotated[Size, _rule(rules.size(0))]

Text = Annotated[str, _rule(rules.text)]
Name = Annotated[str, _rule(rules.name)]
FilePath = Annotated[str, _rule(rules.path)]
Url = Annotated[str, _rule(rules.url)]
PayloadUrl = Annotated[str, _rule(rules.payload_url)]
StoreUrl = Annotated[str, _rule(rules.store_url)]
Endpoint = Annotated[str, _rule(rules.endpoint)]
Listen = Annotated[str, _rule(rules.listen)]
Module = Annotated[str, _rule(rules.module)]
Prefix = Annotated[str, _rule(rules.prefix)]
PoolName = Annotated[str, _rule(rules.pool_name)]
LimitName = Annotated[str, _rule(rules.limit)]
Rate = Annotated[str, _rule(rules.rate)]
TopicName = Annotated[str, _rule(rules.topic)]
Arguments = Annotated[list[Any], _rule(rules.arguments)]
KeywordArguments = Annotated[dict[str, Any], _rule(rules.arguments)]
Topics = Annotated[list[TopicName], _rule(rules.no_repeats)]
SigningKeys = Annotated[list[Text], _rule(rules.keys(16))]
EncryptionKeys = Annotated[list[Text], _rule(rules.keys(32))]
Weights = dict[TopicName, PositiveInt]
WebhookUrl = Annotated[str, _rule(rules.http_url)]
WebhookSecret = Annotated[str, _rule(rules.webhook_secret)]
Networks = Annotated[list[str], _rule(rules.networks)]
Events = Annotated[list[str], _rule(rules.some_of("done", "dead", "backlog", "flow"))]
Details = Annotated[list[str], _rule(rules.some_of("arguments", "result", "error", least=0))]


class Section(Struct, metaclass=Typed, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A table of the configuration."""


class Workers(Section, frozen=True, kw_only=True):
    """The bounds on the number of processes of a pool."""

    min: ProcessesOrNone = 1  # kept even when the pool is idle
    max: Processes = 1  # never more, however long the backlog


class Pool(Section, frozen=True, kw_only=True):
    """Worker processes that serve topics."""

    topics: Topics | Weights = field(default_factory=lambda: ["default"])  # a list: in strict order; a table: by weight
    workers: Processes | Workers = 1  # a fixed number, or {min, max}: grows by backlog and age, shrinks when idle
    mode: Literal["sync", "threads", "async"] = "sync"  # how a worker runs its jobs
    concurrency: Concurrency = 1  # jobs that one worker runs at the same time; async: thousands
    max_jobs: NonNegativeInt = 0  # a worker is replaced, gracefully, after this many jobs; 0: no limit
    max_age: Seconds = Duration(3600)  # a worker is replaced, gracefully, at this age; 0: no limit
    max_memory: MemoryLimit | None = None  # replace a worker at this resident size; none: 500 MB above its start; 0: no limit
    stop_timeout: Seconds = Duration(30)  # how long a stop waits for running jobs
    timeout_grace: Seconds = Duration(10)  # how long a job may ignore its timeout before its worker is replaced
    grow_age: Seconds = Duration(3)  # the pool grows while its oldest ready job is older than this
    shrink_after: Seconds = Duration(10)  # the pool stops workers that have been idle for this long
    preload: bool = True  # import the application once and fork workers from it
    preload_allow_native: bool = False  # fork even if native libraries run threads of their own


class Defaults(Section, frozen=True, kw_only=True):
    """Defaults for the jobs of all topics: a topic's own setting, `@job` and `using` take precedence, in this order."""

    retries: Retries | None = None  # further attempts after the first; none: 3
    timeout: Seconds | None = None  # the longest time that one run may take; none: no limit
    backoff: Seconds | None = None  # the longest wait before the first retry; it doubles with every attempt; none: 2s
    priority: Priority | None = None  # 0 to 9, higher first
    expires: Seconds | None = None  # a job that has not started by then goes to the dead letters
    acks: Literal["late", "early"] | None = None  # early: acknowledge before the run, at most once
    store_result: bool | None = None  # keep the return value
    encrypt: bool | None = None  # false: arguments and results stay readable although there are encryption_keys
    on_dead: Text | None = None  # the job that is enqueued with every dead letter, of unknown jobs too


class Topic(Section, frozen=True, kw_only=True):
    """Defaults and limits for the jobs of one topic."""

    serve: bool = True  # false: workers elsewhere serve it, so do not warn that no pool does
    retries: Retries | None = None  # further attempts after the first
    timeout: Seconds | None = None  # the longest time that one run may take
    backoff: Seconds | None = None  # the longest wait before the first retry; it doubles with every attempt
    priority: Priority | None = None  # 0 to 9, higher first
    expires: Seconds | None = None  # a job that has not started by then goes to the dead letters
    acks: Literal["late", "early"] | None = None  # early: acknowledge before the run, at most once
    store_result: bool | None = None  # keep the return value
    encrypt: bool | None = None  # false: arguments and results stay readable although there are encryption_keys
    on_dead: Text | None = None  # the job that is enqueued with every dead letter, of unknown jobs too
    result_ttl: Seconds = Duration(86400)  # how long results are kept
    default_job: Text | None = None  # the job that receives plain JSON from foreign producers
    dead_keep: Seconds = Duration(30 * 86400)  # dead letters older than this are dropped
    dead_max: NonNegativeInt = 100_000  # the largest number of dead letters; the oldest beyond it are dropped
    keep_done: Seconds = Duration(0)  # how long done jobs stay to be looked at, with arguments and timeline; 0: not at all
    done_max: NonNegativeInt = 10_000  # the largest number of done jobs; the oldest beyond it are dropped
    keep_logs: bool = False  # keep what a job logs and prints with the job: the newest 200 lines, 64 kB
    alert_above: PositiveInt | None = None  # alert while more jobs than this are ready
    alert_age: Seconds | None = None  # alert while the oldest ready job is older than this, or a limit is full for longer
    fair: bool = False  # jobs of different `key` take turns, within each priority
    max_per_key: PositiveInt | None = None  # with fair: the most jobs of one key that run at once, on all machines together


class Limit(Section, frozen=True, kw_only=True):
    """A limit that jobs name in `limits`; each value of it (`NAME:value`) is limited on its own."""

    concurrency: NonNegativeInt | None = None  # jobs that run at once, on all machines together; 0: none
    rate: Rate | None = None  # jobs that start in a period: "100/s", "10/m", "5/10s"
    burst: PositiveInt | None = None  # with rate: jobs that may start together after a pause; unset: those of 20 ms


class Results(Section, frozen=True, kw_only=True):
    """The backend that keeps results if the queue has none of its own."""

    url: Url | None = None  # the URL of that backend


class Outbox(Section, frozen=True, kw_only=True):
    """The database of the application in which its transactions leave jobs for the backend."""

    url: Url | None = None  # the URL of that database, such as postgresql://shop@localhost/shop


class Payloads(Section, frozen=True, kw_only=True):
    """The storage of large arguments and results."""

    compress: Name | None = None  # the codec that compresses them, such as "zstd"
    compress_above: NonNegativeSize = Size(10_000)  # smaller ones are stored as they are
    url: PayloadUrl | None = None  # file:///directory or s3://bucket/prefix: where bodies that are larger than `above` are kept
    above: NonNegativeSize = Size(100_000)  # bodies up to this size stay in the message
    grace: Seconds = Duration(86400)  # left-over bodies are deleted at this age; set it above the longest transaction and job
    keep: Seconds = Duration(60 * 86400)  # as `grace`, for backends that cannot look up jobs (RabbitMQ)
    limit: MessageLimit = Size(10 * 10**6)  # arguments and results that are larger as JSON are neither packed nor unpacked


class Logs(Section, frozen=True, kw_only=True):
    """The destination and format of log lines."""

    file: FilePath | None = None  # none: standard error
    max_size: FileLimit = Size(100 * 10**6)  # the file is rotated at this size; 0: never, for example with logrotate
    keep: Files = 5  # the number of rotated files to keep
    format: Literal["text", "json"] = "text"  # each line is a sentence or a JSON object
    level: Literal["debug", "info", "warning", "error"] = "info"  # the lowest level logged; debug: every reserve and settlement
    done: bool | None = None  # log each finished job with its duration; none: only under `start --reload`


class Http(Section, frozen=True, kw_only=True):
    """Probes, metrics and the dashboard; off by default."""

    listen: Listen | None = None  # of probes and metrics: "127.0.0.1:9000" or "unix:/path"
    dashboard: bool = False  # run the dashboard of a plugin (jobs-web) beside the workers, at its own address


class Alerts(Section, frozen=True, kw_only=True):
    """Alerts about backlogs, and the channels to which they are sent."""

    after: Seconds = Duration(60)  # how long a topic must exceed its limit before an alert
    repeat: Seconds = Duration(180)  # the shortest time between two alerts of one topic
    channels: dict[Name, dict[str, Any]] = {}  # channel name to its settings: webhook = { url = "https://…" }


class Webhook(Section, frozen=True, kw_only=True):
    """A receiver of events, to which each is sent by a job of the topic `webhooks`, signed."""

    url: WebhookUrl | None = None  # the address that takes the events by POST
    url_file: FilePath | None = None  # instead of url: a file with it
    secret: WebhookSecret | None = None  # whsec_ and random bytes in base64; several, separated by spaces, while it changes
    secret_file: FilePath | None = None  # instead of secret: a file with it
    events: Events = field(default_factory=lambda: ["dead", "backlog", "flow"])  # of done, dead, backlog, flow
    topics: Topics = []  # report only these topics; empty: all; `done` needs names
    include: Details = field(default_factory=lambda: ["error"])  # what else events contain: of arguments, result, error
    retries: Retries = 12  # further attempts, each after a random part of a time that doubles from 5 s to 1 h
    networks: Networks = []  # addresses besides public ones to which events may be sent, such as 10.0.0.0/8


class ScheduleEntry(Section, frozen=True, kw_only=True):
    """One entry of the schedule: a job to enqueue by cron expression or interval."""

    job: Text  # its registered name
    cron: Text | None = None  # five fields, or six with seconds first
    every: Interval | None = None  # instead of cron
    tz: Text = "UTC"  # the time zone of the cron expression
    args: Arguments = []  # the arguments of the job
    kwargs: KeywordArguments = {}  # the arguments of the job by name
    topic: TopicName | None = None  # instead of the job's own
    missed: Literal["skip", "once"] = "once"  # runs missed during an outage: dropped, or run once


class Broker(Section, frozen=True, kw_only=True):
    """The ZeroMQ broker of jobs-zeromq."""

    embedded: bool = False  # the supervisor runs the broker
    store: StoreUrl | None = None  # the SQLite URL of its store; none: broker.db in run_dir
    listen: list[Endpoint] = []  # addresses such as zmq+tcp://127.0.0.1:7788 or zmq+ipc:///path; empty: that of `backend`
    keys: FilePath | None = None  # the directory of `jobsctl broker keygen`; none: no encryption, this machine only
    min_free: DiskSpace = Size(32 * 10**6)  # free disk space below which pushes are refused, so that queued jobs can settle


class Config(Section, frozen=True, kw_only=True):
    """The whole configuration, every key with its default."""

    backend: Url | None = None  # sqlite:///path  redis[s]://  postgresql://  amqp[s]://  zmq+tcp://; none: SQLite in run_dir
    modules: list[Module] = []  # the modules that define the jobs
    loader: Text | None = None  # the name of a job loader; none: the framework's own if it has one, else "modules"
    framework: Text | None = None  # the name of a bootstrapper; its settings are in [framework name]
    run_dir: FilePath = ".jobs"  # pid file, scoreboard, sockets; 0700
    lease: Lease = Duration(30)  # how long the jobs of a silent worker stay reserved
    max_message: MessageLimit = Size(10**6)  # the largest message; larger ones are refused
    max_result: MessageLimit | None = None  # larger results are not stored, but their job is done; none: as max_message
    max_redeliveries: Redeliveries = 3  # a job that has crashed this many workers on its own is dead
    signing_keys: SigningKeys = []  # "kid:secret"; the first key signs, all keys verify
    encryption_keys: EncryptionKeys = []  # "kid:secret"; the first key encrypts arguments and results, all keys decrypt
    enqueue_timeout: Seconds = Duration(5)  # how long an enqueue may take, even during an outage
    unknown_grace: Seconds = Duration(600)  # how long a job of unknown name waits for newer workers
    prefix: Prefix = "jobs"  # the prefix of the backend's keys and queues
    pools: Annotated[dict[PoolName, Pool], _rule(rules.not_empty)] = field(default_factory=lambda: {"default": Pool()})
    topics: dict[TopicName, Topic] = {}
    limits: dict[LimitName, Limit] = {}
    defaults: Defaults = Defaults()
    results: Results = Results()
    outbox: Outbox = Outbox()
    payloads: Payloads = Payloads()
    logs: Logs = Logs()
    http: Http = Http()
    alerts: Alerts = Alerts()
    webhooks: dict[PoolName, Webhook] = {}
    schedule: dict[Name, ScheduleEntry] = {}
    broker: Broker = Broker()
    prefer: list[Name] = []  # plugins to use if several provide one name; same as [plugins] prefer = ["mine"]
    plugins: dict[str, dict[str, Any]] = {}  # plugin settings by name; [NAME] is short for those of the loader and framework
    base_dir: Path = Path()  # set by the reader, not a key: the directory that relative paths start from

    def topic(self, name: str) -> Topic:
        """Return the settings of a topic; keys that it does not set come from `[defaults]`."""
        topic = self.topics.get(name, _DEFAULT_TOPIC)
        if self.defaults == _NO_DEFAULTS:
            return topic
        given = {key: getattr(self.defaults, key) for key in Defaults.__struct_fields__ if getattr(topic, key) is None}
        return msgspec.structs.replace(topic, **given)

    def served_topics(self) -> set[str]:
        """Return the topics that some pool serves."""
        return {topic for pool in self.pools.values() for topic in pool.topics}

    def is_unserved(self, topic: str) -> bool:
        """Return whether no pool serves a topic, although `serve = false` is not set: its jobs would wait forever."""
        return self.topic(topic).serve and topic not in self.served_topics()


_DEFAULT_TOPIC = Topic()
_NO_DEFAULTS = Defaults()
