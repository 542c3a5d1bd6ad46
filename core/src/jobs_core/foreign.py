"""Words of other job systems, with our equivalents: advice for newcomers who type words that they know from there.

Code that refuses a word looks up its equivalent here, for the error; without an error, nothing is looked up. A test runs
every example. This module imports nothing of ours, so that every other module may use it.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec

F = TypeVar("F", bound=Callable[..., Any])


class Word(NamedTuple):
    """Our equivalent of a word: half a sentence, and at most one example. In code, `job` stands for the job function."""

    says: str
    option: str = ""  # of `@job`, and of `using` if `using` has it
    using: str = ""  # of `using` only: it belongs to one enqueue
    code: str = ""
    toml: str = ""  # a line of jobs.toml, or of the table in which the word was found

    def advice(self, job: str, using: Collection[str] = ()) -> str:
        """Return the end of an error about the job function `job`; `using` holds the keywords of `using`, if it was called."""
        option = self.option
        if self.using or option.partition("=")[0] in using:
            example = f"{job}.using({self.using or option}).enqueue(...)"
        else:
            example = f"@job({option})" if option else self.toml or re.sub(r"(?<!import )\bjob\b", job, self.code)
        return f"{self.says}: {example}" if example else self.says


def close(word: str, names: Iterable[str], count: int, cutoff: float = 0.6) -> list[str]:
    """Return the names that resemble a word, best first: difflib.get_close_matches, which only errors need."""
    import difflib

    return difflib.get_close_matches(word, list(names), count, cutoff)


def _table(*rows: tuple[str, Word]) -> dict[str, Word]:
    return {word: meaning for words, meaning in rows for word in words.split()}


# -- in code --------------------------------------------------------------------------------------

_CURRENT = Word("the run is not passed to the function; current_job() returns it", code="current_job().attempt")
_TOPIC = Word("a queue is a topic here", option='topic="email"')
_RETRIES = Word("retries are the attempts after the first", option="retries=5")
_BACKOFF = Word("backoff is the wait before the first retry, and doubles with every attempt", option="backoff=10")
_TIMEOUT = Word("timeout limits each run, in seconds; then JobTimeout is raised in it", option="timeout=30")
_ONE_ENQUEUE = "this belongs to one enqueue, not to the definition"
_DEFINITION = "this belongs to the definition"
_DELAY = Word("the delay is given when enqueuing, in seconds or as a timedelta", using="delay=60")
_AT = Word("a point in time with its time zone is given when enqueuing", using="at=when")
_UNIQUE = Word("unique allows one such job at a time", option="unique=True")
_CRON = Word("cron takes five fields; [schedule] in jobs.toml also takes intervals", option='cron="*/5 * * * *"')
_RESULT = Word("results are kept only on request", option="store_result=True")
_FAILURES = Word("retry_on names the exceptions that are retried", option="retry_on=(ConnectionError, TimeoutError)")
_NO_RETRY = Word("discard_on names the exceptions that are not retried", option="discard_on=(LookupError,)")
_LINKED = "chain(job.call(...), job.step(...)).enqueue()"
_FOLLOW = Word(
    "a chain runs jobs one after another, each step with the result before it, and flow.add(job.call(...), after=member) is "
    "for all other orders",
    code=_LINKED,
)
_HOOK = Word('code around every run is a plugin\'s hook, jobs_run_context: see "Hooks" in the documentation')
_JSON = Word("arguments are always JSON, and converted to their annotated types; leave this out")
_RATE = Word(
    'limits hold on all machines together: a job names them, @job(limits="partner"), and jobs.toml defines them, '
    'limits.partner.rate = "10/m"'
)
_RATE_OF_TOPIC = Word(
    'limits hold for the jobs that name them, @job(limits="partner"), and are tables of their own, [limits.partner]'
)
_BACKEND = Word("jobs.toml says where jobs are kept", toml='backend = "redis://localhost:6379/0"')
_ARGUMENTS = Word("enqueue takes the arguments just as a call does", code="job.enqueue(...)")
_EXPIRES = Word("a job that has not started by then is not run", option="expires=3600")
_KEPT = Word("jobs.toml says how long results are kept", toml='topics.default.result_ttl = "1d"')
_DEAD = Word("jobs.toml says how long dead letters are kept", toml='topics.default.dead_keep = "30d"')

USING: Final = (
    "delay", "priority", "topic", "retries", "timeout", "expires", "unique", "store_result", "key", "limits", "headers", "id", "on_commit",
    "transaction", "at", "expires_at",
)  # fmt: skip
"""Keywords of `using`; a test compares them with its signature."""

OPTIONS: Final = _table(
    ("name", Word("this belongs to the definition", option='name="shop.send_email"')),
    ("aliases", Word("this belongs to the definition", option='aliases=["shop.old_name"]')),
    ("backoff", Word("this belongs to the definition", option="backoff=10")),
    ("min_time", Word("this belongs to the definition", option="min_time=1")),
    ("acks", Word("this belongs to the definition", option='acks="early"')),
    ("encrypt", Word("this belongs to the definition", option="encrypt=False")),
    ("resumable", Word("this belongs to the definition", option="resumable=True")),
    ("step_timeout", Word("this belongs to the definition", option="resumable=True, step_timeout=60")),
    ("cron", Word("this belongs to the definition", option='cron="*/5 * * * *"')),
    ("tz", Word("this belongs to the definition", option='cron="0 3 * * *", tz="Europe/Paris"')),
    ("missed", Word("this belongs to the definition", option='cron="0 3 * * *", missed="skip"')),
    ("registry", Word("this belongs to the definition", option="registry=registry")),
    ("id", Word("an id of your own belongs to one enqueue", using='id="order-4711"')),
    ("delay", Word(_ONE_ENQUEUE, using="delay=60")),
    ("at", Word(_ONE_ENQUEUE, using="at=when")),
    ("expires_at", Word(_ONE_ENQUEUE, using="expires_at=when")),
    ("headers", Word(_ONE_ENQUEUE, using='headers={"tenant": "acme"}')),
    ("transaction", Word(_ONE_ENQUEUE, using="transaction=session")),
    ("queue queue_name queues task_queue routing_key exchange channel", _TOPIC),
    ("max_retries max_attempts attempts retry tries max_tries retry_limit retry_kwargs retry_policy", _RETRIES),
    ("retry_backoff default_retry_delay retry_delay min_backoff retry_jitter countdown_backoff retry_intervals", _BACKOFF),
    ("retry_backoff_max max_backoff", Word("Backoff sets the first wait and the longest", option="backoff=Backoff(first=2, longest=600)")),
    ("time_limit soft_time_limit job_timeout task_time_limit task_soft_time_limit execution_timeout", _TIMEOUT),
    ("countdown delay_seconds schedule_in run_in in_ defer_by _defer_by wait wait_for", _DELAY),
    ("eta run_at schedule_at scheduled_at scheduled_time scheduled_for defer_until _defer_until wait_until", _AT),
    ("max_age ttl expire expires_in age_limit", _EXPIRES),
    ("lock queueing_lock unique_key unique_on unique_for once singleton dedupe dedup_key lock_expires _job_id", _UNIQUE),
    ("schedule crontab periodic run_every interval every repeat cron_string", _CRON),
    ("store_results save_result keep_result", _RESULT),
    ("ignore_result", Word("results are kept only on request, so leave this out, or keep them", option="store_result=True")),
    ("result_ttl result_expires keep_result_forever", _KEPT),
    ("failure_ttl", _DEAD),
    ("bind pass_context context takes_context with_job_id", _CURRENT),
    (
        "acks_late",
        Word("jobs are acknowledged after they ran, so leave this out, or acknowledge before, at most once", option='acks="early"'),
    ),
    (
        "reject_on_worker_lost acks_on_failure_or_timeout",
        Word(
            "the job of a worker that died runs again; jobs.toml says how often at most", toml="max_redeliveries = 3"
        ),
    ),
    ("autoretry_for retry_when retry_for retry_exceptions", _FAILURES),
    ("throws dont_autoretry_for dont_retry_on no_retry_on", _NO_RETRY),
    ("retry_on discard_on", Word(_DEFINITION, option="retry_on=(ConnectionError,), discard_on=(LookupError,)")),
    ("on_done on_dead", Word(_DEFINITION, option='on_done="shop.ship", on_dead="shop.refund"')),
    ("throttle", Word("a unique key that is held for a time drops what comes meanwhile", option='unique=Unique.throttle("10m")')),
    ("debounce", Word("a job that waits is replaced by the next one", option='unique=Unique.debounce("30s", longest="5m")')),
    ("conflict", Word("it belongs to Unique", option='unique=Unique(conflict="drop")')),
    ("scope", Word("it belongs to Unique", option='unique=Unique(scope="5m")')),
    ("rate_limit max_rps rate_limiter concurrency_limit max_concurrency limits_concurrency", _RATE),
    ("link depends_on pipe_target then chain", _FOLLOW),
    ("on_success callback success_callback", Word("on_done names the job to enqueue when this one is done", option='on_done="shop.ship"')),
    ("link_error on_failure on_exception failure_callback on_error", Word("on_dead names the job to enqueue when this one is dead", option='on_dead="shop.refund"')),
    ("on_retry after_return before_start base middleware", _HOOK),
    ("serializer compression content_type accept_content", _JSON),
    ("broker connection app backend result_backend redis broker_url", _BACKEND),
    ("args kwargs params", _ARGUMENTS),
    ("task_id job_id message_id", Word("an id of your own belongs to one enqueue", using='id="order-4711"')),
    ("task_name actor_name job_name fn_name", Word("this is the job's name", option='name="shop.send_email"')),
    ("at_front", Word("priorities are 0 to 9, and higher ones run first", option="priority=9")),
    ("meta tags labels metadata", Word("headers reach the run as current_job().headers", using='headers={"tenant": "acme"}')),
    (
        "track_started send_events shadow trail typing description coro",
        Word("leave this out: `jobsctl top` shows running jobs"),
    ),
)  # fmt: skip
"""Keywords of `@job`, `using` and enqueue."""

_ENQUEUE = Word("a worker runs it after", code="job.enqueue(...)")
_USING = Word("options of one enqueue go through `using`", code="job.using(delay=60).enqueue(...)")
_CALL = Word(
    "call has all arguments, step all but the first, which is the result before it; chain, group and enqueue_many take them",
    code=_LINKED,
)
_PLAIN = Word("to run it here, call it as any function", code="job(...)")
_MANY = Word("enqueue_many takes one round trip", code="job.enqueue_many([(), ()])")
_RETRY = Word("raise Retry in the job for another attempt", code="raise Retry(delay=60)")

METHODS: Final = _table(
    (
        "delay send perform_async kiq defer defer_async submit publish spawn push run_async later dispatch enqueue_async",
        _ENQUEUE,
    ),
    ("apply_async send_with_options configure kicker perform_in perform_at enqueue_in enqueue_at schedule set", _USING),
    ("s si signature subtask message message_with_options as_task", _CALL),
    ("map starmap chunks bulk perform_bulk push_bulk send_many batch", _MANY),
    ("apply run fn func call_local call_now execute perform", _PLAIN),
    ("retry", _RETRY),
    ("request update_state", _CURRENT),
    ("AsyncResult get_result fetch result", Word("the handle of a job is found by its id", code='job.handle("order-4711")')),
    ("link then on_success", _FOLLOW),
    ("chain chord group pipe", Word("these put calls of jobs together", code="from jobs_core import chain, group")),
    ("queue queue_name", Word("the topic is among the options", code="job.options.topic")),
    ("max_retries", Word("the retries are among the options", code="job.options.retries")),
)
"""Attributes of a job function."""

_HANDLE_RESULT = Word("wait for the result with", code="handle.result(timeout=5)")
_HANDLE_STATUS = Word("ask for the state with", code="handle.status()")
_HANDLE_CANCEL = Word("cancel with", code="handle.cancel()")

HANDLE: Final = _table(
    ("get wait join get_result wait_result return_value latest_result value collect", _HANDLE_RESULT),
    (
        "state ready successful failed get_status is_finished is_failed is_queued is_started is_ready info traceback",
        _HANDLE_STATUS,
    ),
    ("revoke abort delete terminate", _HANDLE_CANCEL),
    ("task_id message_id job_id key uuid", Word("the id is", code="handle.id")),
    ("forget refresh", Word("a handle caches nothing and asks the backend each time", code="handle.status()")),
)
"""Attributes of a handle."""

_OF_A_FLOW: Final = (
    ("state ready successful failed get_status is_finished is_failed", _HANDLE_STATUS),
    ("revoke abort delete terminate", _HANDLE_CANCEL),
    ("completed_count children results waiting", Word("members are counted by state", code="handle.progress().done")),
)

FLOW_HANDLE: Final = _table(
    (
        "result aresult get join get_result collect",
        Word(
            "a flow has no result of its own; keep the member that flow.add returned, and ask it once the block has ended",
            code="member.handle.result(timeout=5)",
        ),
    ),
    *_OF_A_FLOW,
)
"""Attributes of the handle of a flow."""

WORK_HANDLE: Final = _table(("get join get_result collect", _HANDLE_RESULT), *_OF_A_FLOW)
"""Attributes of the handle of a chain or group."""

WORK: Final = _table(
    ("delay apply_async apply send run", Word("a chain or group is sent by enqueue", code="chain(job.call(...)).enqueue()")),
    ("get join result", Word("enqueue returns a handle, which waits for the result", code="chain(job.call(...)).enqueue()")),
)
"""Attributes of a chain or group that was not sent."""

CONTEXT: Final = _table(
    ("retry", _RETRY),
    ("request job task", Word("current_job() is the run", code="current_job().id")),
    ("args kwargs", Word("the arguments are in the message", code="current_job().message.args")),
    ("task_id job_id message_id", Word("the job's id", code="current_job().id")),
    ("task_name func_name job_name", Word("the job's name", code="current_job().name")),
    ("queue queue_name origin routing_key delivery_info", Word("a queue is a topic here", code="current_job().topic")),
    ("job_try attempts retry_count tries number_of_retries", Word("attempts count from 1", code="current_job().attempt")),
    ("max_retries max_attempts retries_left", Word("further attempts after the first", code="current_job().retries")),
    (
        "is_aborted aborted should_abort is_cancelled is_revoked",
        Word("ask whether it was cancelled", code="current_job().cancelled"),
    ),
    ("meta get_meta", Word("data from the producer is in the headers", code="current_job().headers")),
    ("defer delay snooze", Word("raise Snooze to run later", code="raise Snooze(60)")),
    (
        "update_state update_progress save_meta",
        Word("tell how far the job is; handle.progress() and jobsctl show it", code='current_job().progress(3, 10, "page 3")'),
    ),
)
"""Attributes of `current_job()`."""

_JOB = Word("a decorator makes a function a job", code="from jobs_core import job")

_DECORATOR = Word("a function becomes a job with the decorator of jobs_core", code="from jobs_core import job")

APP: Final = _table(
    ("task actor job register shared_task", _DECORATOR),
    ("send_task send delay apply_async", Word("a job function has its own enqueue", code="job.enqueue(...)")),
    ("conf config_from_object configure settings broker connection broker_url", _BACKEND),
    ("autodiscover_tasks include", Word("jobs.toml names the modules that define jobs", toml='modules = ["tasks"]')),
    ("AsyncResult result_backend", Word("the handle of a job is found by its id", code='job.handle("order-4711")')),
    ("worker_main start run Worker control", Word("workers are started by `jobsctl start`")),
    ("add_periodic_task", Word("cron is an option of @job", option='cron="*/5 * * * *"')),
)
"""Attributes of an application."""

PACKAGE: Final = _table(
    ("task shared_task actor Task Actor background background_task periodic_task db_task async_task register_task", _JOB),
    (
        "Celery Huey RedisHuey SqliteHuey MemoryHuey Queue Broker RedisBroker RabbitmqBroker set_broker get_broker Redis "
        "create_pool ArqRedis Connection Worker Scheduler",
        Word("nothing is set up in code; jobs.toml says where jobs are kept", toml='backend = "redis://localhost:6379/0"'),
    ),
    ("get_current_job current_task CurrentMessage current_message get_current_task", Word("the run is", code="current_job().id")),
    ("crontab cron every", Word("cron is an option of @job", option='cron="*/5 * * * *"')),
    ("chord chunks signature pipeline", Word("these put calls of jobs together", code="from jobs_core import chain, group")),
    ("enqueue send_task delay apply_async defer", Word("a job function has its own", code="job.enqueue(...)")),
    ("Ignore Reject CancelExecution StopJob", Word("raise Discard to give up", code='raise Discard("no such order")')),
    ("SoftTimeLimitExceeded TimeLimitExceeded JobTimeoutException", Word("a timeout raises", code="from jobs_core import JobTimeout")),
    ("AsyncResult Job TaskResult Result", Word("the handle of a job is found by its id", code='job.handle("order-4711")')),
    ("RetryTask MaxRetriesExceededError MaxRetries", _RETRY),
)  # fmt: skip
"""Names that people import."""

SIGNALS: Final = _table(
    ("countdown seconds wait in_ defer schedule_in", Word("seconds, a timedelta or a string", code="raise job(delay=60)")),
    (
        "eta at when schedule_at",
        Word("seconds, a timedelta or a string", code="raise job(delay=when - datetime.now(when.tzinfo))"),
    ),
    ("exc exception cause", Word("the reason is a string; `from` carries the exception", code='raise job("busy") from error')),
    ("max_retries retries max_attempts", Word("the number of retries is an option of @job", option="retries=5")),
    ("args kwargs queue throw requeue", Word("the same job runs again in the same topic", code="raise job()")),
)
"""Keywords of `Retry`, `Snooze` and `Discard`."""

_FIRST = Word("the longest wait before the first retry, in seconds", code="Backoff(first=2)")
_LONGEST = Word("the longest wait, in seconds", code="Backoff(first=2, longest=600)")
_DOUBLES = Word("the wait is multiplied by factor with every attempt, up to the longest", code="Backoff(first=2, factor=3)")
_RANDOM = Word("every wait is a random share of what it may be, so leave this out", code="Backoff(first=2, longest=600)")

BACKOFF: Final = _table(
    ("base initial initial_delay initial_interval min min_backoff min_delay minimum start delay seconds interval wait", _FIRST),
    ("max max_backoff max_delay max_interval maximum cap limit ceiling max_value max_wait", _LONGEST),
    ("multiplier exponent exp_base backoff_factor rate exponential growth", _DOUBLES),
    ("jitter randomize randomization_factor random full_jitter", _RANDOM),
    ("retries max_retries attempts max_attempts tries max_tries", _RETRIES),
)
"""Keywords of `Backoff`."""

_SCOPE = Word("scope sets how long the key is held: queued, done or a duration", code='Unique(scope="5m")')
_KEY = Word(
    "the key is a string that may name arguments, or a function of them; without one, all arguments count",
    code="Unique(key=str)",
)
_CONFLICT = Word("conflict sets what happens to the second job: drop, replace or raise", code='Unique(conflict="replace")')

UNIQUE: Final = _table(
    ("ttl for for_ timeout expires expiry duration period seconds window within lock_ttl lock_expires lock_timeout", _SCOPE),
    ("until unless while states lock on_states until_executed until_executing", _SCOPE),
    ("by fields args kwargs keys on unique_on unique_for unique_key lock_args params", _KEY),
    ("on_conflict strategy action if_exists replace mode raise_on_duplicate fail", _CONFLICT),
)
"""Keywords of `Unique`."""


# -- in jobs.toml ---------------------------------------------------------------------------------


def _toml(says: str, line: str) -> Word:
    return Word(says, toml=line)


_URL = _toml("where jobs are kept", 'backend = "redis://localhost:6379/0"')
_WORKERS = _toml("processes belong to a pool", "pools.default.workers = 4")
_CONCURRENCY = _toml(
    "processes belong to a pool, and jobs at once in each of them too",
    'pools.default = {workers = 4, mode = "threads", concurrency = 8}',
)
_TOPICS = _toml("a queue is a topic here, and a pool serves some", 'pools.default.topics = ["email", "default"]')
_NONE = Word("leave this out: workers adapt by themselves")

_TOP: Final = _table(
    ("broker_url broker_read_url broker_write_url redis_url redis amqp_url url dsn database connection brokers queue_url", _URL),
    ("result_backend result_url results_url", _toml("results are kept with the jobs; beside RabbitMQ in", 'results.url = "redis://localhost:6379/1"')),
    ("include imports tasks task_modules tasks_module autodiscover autodiscover_tasks packages", _toml("the modules that define jobs", 'modules = ["tasks"]')),
    ("workers worker processes num_workers worker_processes numprocs", _WORKERS),
    ("concurrency worker_concurrency threads worker_threads", _CONCURRENCY),
    ("topic queue queues task_queues task_default_queue default_queue listen_queues", _TOPICS),
    ("task_routes routes", Word("a job's topic stands beside its function", option='topic="email"')),
    ("pool mode worker_pool worker_class", _toml("how workers run jobs", 'pools.default.mode = "threads"')),
    ("beat_schedule beat cron crontab periodic_tasks", _toml("every entry has a name", 'schedule.nightly = {job = "tasks.report", cron = "0 3 * * *"}')),
    ("timezone enable_utc tz", _toml("each entry of the schedule has its time zone, UTC by default", 'schedule.nightly = {job = "tasks.report", cron = "0 3 * * *", tz = "Europe/Paris"}')),
    ("visibility_timeout ack_deadline consumer_timeout heartbeat broker_heartbeat", _toml("a silent worker's jobs are redelivered after", 'lease = "30s"')),
    ("max_retries retries max_attempts task_max_retries", _toml("for all jobs", "defaults.retries = 5")),
    ("timeout time_limit soft_time_limit task_time_limit task_soft_time_limit job_timeout", _toml("for all jobs", 'defaults.timeout = "30s"')),
    ("backoff retry_backoff retry_delay task_default_retry_delay", _toml("for all jobs", 'defaults.backoff = "2s"')),
    ("acks_late task_acks_late", _toml("jobs are acknowledged after they ran, so leave this out, or acknowledge before, at most once", 'defaults.acks = "early"')),
    ("acks", _toml("for all jobs", 'defaults.acks = "early"')),
    ("ignore_result task_ignore_result store_result store_results", _toml("results are kept only when asked for", "defaults.store_result = true")),
    ("result_expires result_ttl keep_result task_result_expires", _toml("for all jobs of a topic", 'topics.default.result_ttl = "1d"')),
    ("dead_keep failure_ttl dead_max", _toml("for all dead letters of a topic", 'topics.default.dead_keep = "30d"')),
    ("alert_above alert_age", _toml("for a topic", "topics.default.alert_above = 10000")),
    ("priority task_default_priority", _toml("for all jobs", "defaults.priority = 5")),
    ("max_tasks_per_child worker_max_tasks_per_child max_jobs max_requests", _toml("a worker is replaced after", "pools.default.max_jobs = 10000")),
    ("max_memory worker_max_memory_per_child max_memory_per_child", _toml("a worker is replaced after", 'pools.default.max_memory = "512MB"')),
    ("max_age", _toml("a worker is replaced after", 'pools.default.max_age = "1h"')),
    ("stop_timeout graceful_timeout shutdown_timeout", _toml("how long stop waits for running jobs", 'pools.default.stop_timeout = "30s"')),
    ("autoscale autoscaler min_workers max_workers", _toml("a pool that grows with its backlog", "pools.default.workers = {min = 2, max = 8}")),
    ("prefetch prefetch_count prefetch_multiplier worker_prefetch_multiplier polling_interval poll_interval", _NONE),
    ("serializer task_serializer result_serializer accept_content result_accept_content", _JSON),
    ("loglevel log_level level worker_log_level verbosity", _toml("the lowest level that is logged", 'logs.level = "debug"')),
    ("logfile log_file log", _toml("without a file, standard error", 'logs.file = "jobs.log"')),
    ("log_format worker_log_format", _toml("text or json", 'logs.format = "json"')),
    ("pidfile pid_file state_dir data_dir", _toml("pid file, sockets and SQLite are in", 'run_dir = ".jobs"')),
    ("listen metrics_port health_port prometheus metrics", _toml("probes and metrics", 'http.listen = "127.0.0.1:9000"')),
    ("webhook slack alert", _toml("alerts go to channels", 'alerts.channels.webhook = {url = "https://example.com/hook"}')),
    ("rate_limit rate_limits task_annotations task_default_rate_limit", _toml("a job names its limits, @job(limits=\"partner\"), and this defines one", 'limits.partner.rate = "10/m"')),
    ("task_always_eager always_eager immediate eager", Word('tests run jobs with a fixture: see "Testing applications" in the documentation', toml='backend = "memory://"')),
    ("key_prefix namespace broker_transport_options queue_prefix", _toml("the prefix of keys and queues", 'prefix = "jobs"')),
    ("secret secret_key security_key signing_key", _toml("messages are signed with", 'signing_keys = ["k1:a-long-random-secret"]')),
)  # fmt: skip

_POOL: Final = _table(
    ("queues queue topic queue_names listens", _toml("the topics in strict order", 'topics = ["email", "default"]')),
    ("processes num_workers numprocs size count replicas worker_processes pool_size", _toml("processes are called workers", "workers = 4")),
    ("min max min_workers max_workers autoscale balance scale", _toml("a pool that grows with its backlog", "workers = {min = 2, max = 8}")),
    ("threads thread_count num_threads threadpool", _toml("with concurrency for the number of jobs in one worker", 'mode = "threads"')),
    ("pool type kind class worker_class execution execution_mode", _toml("sync, threads or async", 'mode = "async"')),
    ("max_tasks max_tasks_per_child max_requests maxtasksperchild", _toml("a worker is replaced after", "max_jobs = 10000")),
    ("max_memory_per_child memory_limit memory", _toml("a worker is replaced after", 'max_memory = "512MB"')),
    ("max_lifetime lifetime ttl", _toml("a worker is replaced after", 'max_age = "1h"')),
    ("graceful_timeout shutdown_timeout stopwaitsecs grace", _toml("how long stop waits for running jobs", 'stop_timeout = "30s"')),
    ("timeout time_limit job_timeout", Word("the timeout of a run is its job's, or its topic's", option="timeout=30")),
    ("retries max_retries tries backoff", Word("retries are a job's, or its topic's", option="retries=5")),
    ("prefetch prefetch_count prefetch_multiplier polling_interval sleep", _NONE),
    ("preload_app", _toml("the application is imported once", "preload = true")),
)  # fmt: skip

_TOPIC_KEYS: Final = _table(
    ("max_retries max_attempts attempts tries retry", _toml("further attempts after the first", "retries = 5")),
    ("time_limit soft_time_limit job_timeout", _toml("of one run", 'timeout = "30s"')),
    ("retry_backoff retry_delay default_retry_delay min_backoff", _toml("the first wait, which doubles", 'backoff = "2s"')),
    ("ttl max_age message_ttl", _toml("a job not started by then is not run", 'expires = "1h"')),
    ("acks_late ack", _toml("late is the default; the opposite is", 'acks = "early"')),
    ("store_results ignore_result keep_result", _toml("results are kept only when asked for", "store_result = true")),
    ("result_expires", _toml("how long results are kept", 'result_ttl = "1d"')),
    ("failure_ttl dead_letter_ttl dead_ttl", _toml("how long dead letters are kept", 'dead_keep = "30d"')),
    ("max_length max_size alert limit", _toml("no length is refused; an alert reports it", "alert_above = 10000")),
    ("workers concurrency processes", Word("workers belong to the pool that serves the topic", toml='pools.slow = {topics = ["slow"], workers = 1}')),
    ("rate_limit rate", _RATE_OF_TOPIC),
    ("produce_only", _toml("workers elsewhere serve it", "serve = false")),
    ("delay", Word("the delay belongs to one enqueue", using="delay=60")),
    ("key headers id", Word("this belongs to one enqueue", using='headers={"tenant": "acme"}')),
    ("transaction", Word("this belongs to one enqueue", using="transaction=session")),
    ("on_commit", Word("this belongs to one enqueue, or to the definition", using="on_commit=True")),
    ("unique", Word("this belongs to the definition, or to one enqueue", option="unique=True")),
    ("name aliases", Word("this belongs to the definition", option='name="shop.send_email", aliases=["shop.old_name"]')),
    ("cron tz missed every schedule", _toml("every entry of the schedule has a name", 'schedule.nightly = {job = "tasks.report", cron = "0 3 * * *"}')),
)  # fmt: skip

_SCHEDULE: Final = _table(
    ("task func function name command", _toml("a job's registered name", 'job = "tasks.report"')),
    ("schedule crontab expression at", _toml("five fields, or six with seconds first", 'cron = "0 3 * * *"')),
    ("interval seconds run_every period", _toml("instead of cron", 'every = "5m"')),
    ("timezone zone", _toml("the zone of cron", 'tz = "Europe/Paris"')),
    ("queue", _toml("a queue is a topic here", 'topic = "email"')),
    ("params arguments", _toml("the arguments of the job", "args = [1, 2]")),
    ("catchup catch_up misfire coalesce", _toml("runs missed during an outage", 'missed = "skip"')),
    ("options", _toml("the topic, and the options in the job's definition", 'topic = "email"')),
    ("retries", Word("this belongs to the job's definition", option="retries=5")),
    ("timeout", Word("this belongs to the job's definition", option="timeout=30")),
    ("backoff", Word("this belongs to the job's definition", option="backoff=10")),
    ("priority", Word("this belongs to the job's definition", option="priority=9")),
    ("expires", Word("this belongs to the job's definition", option="expires=3600")),
    ("unique", Word("this belongs to the job's definition", option="unique=True")),
    ("acks", Word("this belongs to the job's definition", option='acks="early"')),
    ("store_result", Word("this belongs to the job's definition", option="store_result=True")),
    ("aliases", Word("this belongs to the job's definition", option='aliases=["shop.old_name"]')),
    ("delay", _toml("the schedule sets the time; to run later, change it", 'cron = "5 3 * * *"')),
    (
        "key headers id on_commit transaction",
        Word("a scheduled job has none, only its arguments", toml='kwargs = {tenant = "acme"}'),
    ),
)

_LOGS: Final = _table(
    ("filename path logfile", _toml("without a file, standard error", 'file = "jobs.log"')),
    ("loglevel log_level verbosity", _toml("the lowest level that is logged", 'level = "debug"')),
    ("maxbytes max_bytes rotate_size", _toml("then the file is rotated", 'max_size = "100MB"')),
    ("backupcount backup_count backups", _toml("rotated files kept", "keep = 5")),
    ("formatter json type", _toml("text or json", 'format = "json"')),
)

_HTTP: Final = _table(("host port bind address url", _toml("address and port, or a socket", 'listen = "127.0.0.1:9000"')))
_RESULTS: Final = _table(
    ("backend result_backend", _toml("of the backend that keeps them", 'url = "redis://localhost:6379/1"'))
)

KEYS: Final[Mapping[str, Mapping[str, Word]]] = {
    "Config": _TOP,
    "Pool": _POOL,
    "Topic": _TOPIC_KEYS,
    "ScheduleEntry": _SCHEDULE,
    "Logs": _LOGS,
    "Http": _HTTP,
    "Results": _RESULTS,
}
"""Keys by the class of their table."""

TABLES: Final = _table(
    ("pools", _WORKERS),
    ("topics", _TOPICS),
    ("broker", _URL),
    ("results", _toml("where results live beside the jobs", 'results.url = "redis://localhost:6379/1"')),
    ("logs", _toml("the lowest level that is logged", 'logs.level = "debug"')),
    ("http", _toml("probes and metrics", 'http.listen = "127.0.0.1:9000"')),
    ("alerts", _toml("alerts go to channels", 'alerts.channels.webhook = {url = "https://example.com/hook"}')),
    ("schedule", _toml("every entry has a name", 'schedule.nightly = {job = "tasks.report", cron = "0 3 * * *"}')),
)
"""Our tables, for configurations that set a plain value in their place."""


# -- on the command line --------------------------------------------------------------------------


def _command(says: str, line: str) -> Word:
    return Word(says, code=f"jobsctl {line}")


COMMANDS: Final = _table(
    ("beat scheduler cron periodiq rqscheduler", _command("workers run the schedule too", "start")),
    ("work consume consumer rq rqworker multi up serve daemon supervisor process master", _command("the workers of all pools are run by", "start")),
    ("flower monitor events live watch", _command("running jobs are shown by", "top")),
    ("dashboard ui", _command("a dashboard is served by", "web")),
    ("inspect report ping health ps workers pools", _command("running jobs are shown by", "status")),
    ("shutdown down kill terminate quit term", _command("running jobs are finished first by", "stop")),
    ("progress log logs tail track", _command("what a job tells is shown by", "follow ID")),
    ("drain", _command("running jobs are finished, and no new ones are taken, after", "quiet")),
    ("revoke abort", _command("a job is cancelled by", "cancel ID")),
    ("queue queues ls count counts info length", _command("the topics with their jobs are shown by", "topics")),
    ("failed failures dlq deadletters dead-letters requeue", _command("dead letters are listed and retried by", "dead list")),
    ("enqueue send call delay apply add trigger dispatch", _command("a job is enqueued by", "push tasks.send_email")),
    ("exec execute perform perform_now invoke eager", _command("one job is run here and now by", "run tasks.send_email")),
    ("retry", _command("a dead letter is tried again by", "dead retry ID")),
    ("autoscale pool_grow pool_shrink concurrency grow", _command("the number of workers in a pool is set by", "scale default 4")),
    ("config settings doctor validate configtest", _command("the configuration is checked and shown by", "check --show")),
    ("new scaffold", _command("a configuration is written by", "init")),
    ("flush clear empty", _command("the queued jobs of a topic are deleted by", "purge email")),
)  # fmt: skip
"""Commands of `jobsctl`."""


# -- what to add to an error ----------------------------------------------------------------------


def nearest(word: str, ours: Iterable[str]) -> str:
    """Return our word that is most similar to `word`, or all words if none is similar."""
    names = [*ours]
    opposite = {"max": "min", "min": "max"}.get(word[:3], " ")  # it looks similar, but would be the opposite advice
    near = close(word, [name for name in names if not name.startswith(opposite)], 3)
    return f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(names)}" if names else "it takes none"


def option_advice(word: str, job: str, ours: Iterable[str]) -> str:
    """Return the advice for a keyword that `@job` does not have."""
    known = OPTIONS.get(word.lower())
    return known.advice(job) if known else nearest(word, ours)


def argument_advice(word: str, job: str, parameters: Iterable[str]) -> str:
    """Return the advice for a keyword of an enqueue that is not a parameter: perhaps an option, ours or another system's."""
    if word in USING:
        return f"options of an enqueue go through `using`: {job}.using({word}=...).enqueue(...)"
    known = OPTIONS.get(word.lower())
    return known.advice(job, USING) if known else nearest(word, parameters)


def key_advice(table: str, key: str) -> str | None:
    """Return the advice for a key of jobs.toml in a table of this class; None if the key is not known."""
    plain = key.lower().replace("-", "_").removeprefix("celery_")
    found = KEYS.get(table, {}).get(plain)
    return found.advice("job") if found else None


def explains(words: Mapping[str, Word]) -> Callable[[F], F]:
    """Decorate a method so that an unknown keyword raises an error that names our equivalent.

    Type checkers see the method unchanged, and report the keyword as usual.
    """

    def decorate(method: F) -> F:
        @functools.wraps(method)
        def explained(self: Any, *args: Any, **given: Any) -> Any:
            try:
                return method(self, *args, **given)
            except TypeError:
                ours = [*inspect.signature(method).parameters][1:]
                unknown = next((word for word in given if word not in ours), None)
                misfit = _misfit(inspect.signature(method), (self, *args), given)
                if unknown is None and misfit is None:
                    raise
            from .errors import UnknownOption

            where = self.__name__ if isinstance(self, type) else getattr(self, "name", type(self).__name__)
            if method.__name__ != "__init__":
                where += f".{method.__name__}"
            if unknown is None:
                raise UnknownOption(f"{where}: {misfit}: it takes {_taken(inspect.signature(method))}")
            known = words.get(unknown.lower())
            advice = known.advice(getattr(self, "__name__", type(self).__name__), ours) if known else nearest(unknown, ours)
            raise UnknownOption(f"{where}: there is no option {unknown}: {advice}")

        return explained  # type: ignore[return-value]  # callers see no difference

    return decorate


def _misfit(signature: inspect.Signature, args: tuple[Any, ...], given: dict[str, Any]) -> str | None:
    """Return why arguments do not fit a signature: too many, one is missing, or given twice. None if they fit."""
    try:
        signature.bind(*args, **given)
    except TypeError as error:
        return str(error)
    return None


def _taken(signature: inspect.Signature) -> str:
    """Return the parameters of a method in words."""
    parameters = [*signature.parameters.values()][1:]
    named = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    others = ", ".join(each.name for each in parameters if each.name not in named)
    return ", and by name: ".join(filter(None, (others, ", ".join(named))))


_MISFITS = ("Missing required argument", "Extra positional arguments", "Argument ")
"""How msgspec's errors about the number of arguments begin."""


class Explained(msgspec.StructMeta):
    """A metaclass of Structs that developers create: wrong arguments raise an error that names ours, and our equivalent."""

    if not TYPE_CHECKING:  # otherwise pyright would believe that every argument is accepted

        def __call__(cls, *args, **given):  # noqa: N805 - of a metaclass
            try:
                return super().__call__(*args, **given)
            except TypeError as error:
                ours = [field for field in cls.__struct_fields__ if field != "base_dir"]
                unknown = next((word for word in given if word not in cls.__struct_fields__), None)
                misfit = str(error)
                if unknown is None and not misfit.startswith(_MISFITS):
                    raise
            from .errors import UnknownOption

            if unknown is None:
                by_name = "by name: " if 0 < len(args) <= len(ours) and misfit.startswith("Extra") else ""
                raise UnknownOption(f"{cls.__name__}: {misfit}: it takes {by_name}{', '.join(ours)}")
            words = {"Backoff": BACKOFF, "Unique": UNIQUE}.get(cls.__name__) or KEYS.get(cls.__name__, {})
            known = words.get(unknown.lower())
            raise UnknownOption(
                f"{cls.__name__}: there is no option {unknown}: {known.advice('job') if known else nearest(unknown, ours)}"
            )


class _Attribute:
    """An attribute that another system's objects have: reading it raises UnknownAttribute.

    There is a descriptor for each word, because `__getattr__` would make reading any attribute three times as slow.
    """

    def __init__(self, name: str, word: Word) -> None:
        self._name = name
        self._word = word

    def __get__(self, instance: Any, owner: type) -> Any:
        from .errors import UnknownAttribute

        if instance is None:
            raise UnknownAttribute(f"{owner.__name__} has no {self._name}")
        job = getattr(instance, "__name__", "job")
        told = any("__repr__" in vars(base) for base in owner.__mro__[:-1])
        shown = repr(instance) if told else owner.__name__
        raise UnknownAttribute(f"{shown} has no {self._name}: {self._word.advice(job)}")


def teach(kind: type, words: Mapping[str, Word]) -> None:
    """Have these attributes of a class raise an error that names our equivalent; `hasattr` still returns False."""
    for name, word in words.items():
        setattr(kind, name, _Attribute(name, word))


def package_attribute(name: str) -> Exception:
    """Return the error for a name that `jobs_core` does not have."""
    from .errors import UnknownName

    known = PACKAGE.get(name)
    if known is None:
        return AttributeError(f"module 'jobs_core' has no attribute {name!r}")
    return UnknownName(f"jobs_core has no {name}: {known.advice('job')}")  # an import discards the text of an AttributeError
