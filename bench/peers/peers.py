"""The peers and their settings.

The first row of a system is what one types first, with its defaults. Rows with two processes (named "tuned" or "two
workers") have the settings that help most of those that each documents, with late acknowledgement where there is a choice.
Rows of the kill table have what each documents for at-least-once, with timeouts of seconds instead of minutes or hours.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Peer:
    """One row of the tables."""

    name: str
    adapter: str  # a module of adapters/
    workers: tuple[str, ...]  # commands in the peer's environment; together they are the worker set
    settings: str = ""  # the text for the table, if the commands do not say it
    producing: str = ""  # the same for the tables of producers
    packages: tuple[str, ...] = ()  # of its virtual environment; empty: ours
    broker: str = "redis"
    environment: dict[str, str] = field(default_factory=dict)
    drain: int = 3000  # jobs; 2 to 4 s of them where the peer is fast enough
    enqueue: int = 2000
    setup: tuple[str, ...] = ()  # commands that prepare an empty broker
    bulk: int = 0  # jobs of the bulk call; 0: there is none
    measures: tuple[str, ...] = ("drain",)
    patience: float = 40.0  # seconds after the last kill in which its settings let it run what the dead had taken
    bloat: bool = False  # whether bloat.py measures it


CELERY = ("celery[redis]", "hiredis", "gevent", "amqp")
RQ = ("rq", "hiredis")
DRAMATIQ = ("dramatiq[redis,rabbitmq]", "hiredis", "pika", "gevent")
HUEY = ("huey", "redis", "hiredis")
ARQ = ("arq", "hiredis")
TASKIQ = ("taskiq", "taskiq-redis", "hiredis", "taskiq-aio-pika", "aio-pika")
SAQ = ("saq[redis,hiredis]", "uvloop", "typing_extensions")
STREAQ = ("streaq", "hiredis")
PROCRASTINATE = ("procrastinate", "psycopg[binary]")
PGQUEUER = ("pgqueuer[asyncpg]", "typer<0.27")  # its command does not start with newer ones
OBAN = ("oban", "psycopg[binary]")
DJANGO = ("django-tasks-db", "django", "psycopg[binary]")

_START = "python -m jobs_core start"
_CELERY = "python -m celery -A celery_app worker"
_QUIET = f"{_CELERY} --without-gossip --without-mingle --without-heartbeat -l WARNING"
_CELERIES = (f"{_QUIET} -P prefork -c 1 -n a@%h", f"{_QUIET} -P prefork -c 1 -n b@%h")
_RQ = "rq worker -q -u {broker} --maintenance-interval 10 --job-monitoring-interval 5 --worker-ttl 30"
_DRAMATIQ = "dramatiq dramatiq_app"
_HUEY = "python -m huey.bin.huey_consumer huey_app.huey"
_ARQ = "arq arq_app.WorkerSettings"
_TASKIQ = "taskiq worker taskiq_app:broker"
_SAQ = "saq saq_app.settings"
_STREAQ = "streaq run streaq_app:worker"
_PROCRASTINATE = "procrastinate --app=procrastinate_app.app"
_PGQ = "pgq run --log-level INFO pgqueuer_app:main"
_OBAN = "oban start --dsn {broker} --cron-modules oban_app"
_DJANGO = "python -m django db_worker"

_DRAIN = ("drain",)
_ENQUEUE = ("enqueue",)
_BOTH = ("drain", "enqueue")
_IDLE = ("latency", "cold", "memory")
_KILL = ("kill",)
_MANY = ("many",)
_GROUP = ("group",)
_RESULTS = ("results",)
_LIMIT = ("limit",)
_RATE = ("rate",)
_POSTGRES = ("drain", "enqueue", "latency", "idle")

_TWO = {"JOBS_POOLS__DEFAULT__WORKERS": "2"}
_THREADS = {**_TWO, "JOBS_POOLS__DEFAULT__MODE": "threads", "JOBS_POOLS__DEFAULT__CONCURRENCY": "16"}
_ASYNC = {**_TWO, "JOBS_POOLS__DEFAULT__MODE": "async", "JOBS_POOLS__DEFAULT__CONCURRENCY": "5000"}
_CLASSIC = {"JOBS_BACKEND": "{broker}?queues=classic"}
_LATE = {"PREFETCH": "64", "LATE": "1"}
_QUORUM = {**_LATE, "QUEUES": "quorum"}
_UNCONFIRMED = {"UNCONFIRMED": "1"}
_KEEP = {"RESULTS": "1"}
_PGQUEUER = {"PGDSN": "{broker}"}
_SETTINGS = {"DJANGO_SETTINGS_MODULE": "django_settings"}
_SCHEMA = (f"{_PROCRASTINATE} schema --apply",)
_MIGRATE = ("python -m django migrate",)
_INSTALL = ("oban install --dsn {broker}",)

_STARTED = "jobsctl start, workers = 2"
_TUNED = "2 x celery worker -P prefork -c 1, acks_late, prefetch 64"
_AT_LEAST_ONCE = "2 x celery worker -P prefork -c 1, acks_late, reject_on_worker_lost"

RATE = "500"
"""Jobs that may start in a second, where rates are measured."""

_REDIS = [
    Peer("jobs", "jobs_app", (_START,), "jobsctl start", drain=150_000, enqueue=4000, bulk=100_000, measures=(*_BOTH, *_IDLE)),
    Peer(
        "jobs, two workers", "jobs_app", (_START,), _STARTED,
        environment=_TWO, drain=200_000, measures=(*_DRAIN, *_IDLE, *_KILL),
    ),
    Peer(
        "celery", "celery_app", (_CELERY,), "celery worker", packages=CELERY, drain=2500, enqueue=1000, bulk=1000,
        measures=(*_BOTH, *_IDLE),
    ),
    Peer(
        "celery, tuned", "celery_app", _CELERIES, f"{_TUNED}, no gossip, mingle and heartbeat", packages=CELERY,
        environment=_LATE, drain=3500, measures=(*_DRAIN, *_IDLE),
    ),
    Peer(
        "rq", "rq_app", ("rq worker-pool -n 2 -u {broker}",), "rq worker-pool -n 2 (forks a job)", packages=RQ,
        drain=250, enqueue=1500, bulk=3000, measures=(*_BOTH, *_IDLE),
    ),
    Peer(
        "rq, tuned", "rq_app", ("rq worker-pool -q -n 2 -w rq.worker.SimpleWorker -u {broker}",),
        "rq worker-pool -q -n 2 -w rq.worker.SimpleWorker", packages=RQ, drain=1000, measures=(*_DRAIN, *_IDLE),
    ),
    Peer(
        "dramatiq", "dramatiq_app", (_DRAMATIQ,), "dramatiq (2 processes of 8 threads)", packages=DRAMATIQ, drain=8000,
        measures=(*_BOTH, *_IDLE),
    ),
    Peer("huey", "huey_app", (_HUEY,), "huey_consumer, results=False", packages=HUEY, drain=4000, measures=_BOTH),
    Peer(
        "huey, tuned", "huey_app", (f"{_HUEY} -k process -w 2",), "huey_consumer -k process -w 2, results=False", packages=HUEY,
        drain=10_000, measures=(*_DRAIN, *_IDLE),
    ),
    Peer(
        "arq", "arq_app", (_ARQ,), "arq, keep_result=0", packages=ARQ, drain=500, enqueue=1500, measures=(*_BOTH, "latency"),
    ),
    Peer(
        "arq, tuned", "arq_app", (_ARQ, _ARQ), "2 x arq, max_jobs=100, poll_delay=0.01, keep_result=0", packages=ARQ,
        environment={"MAX_JOBS": "100", "POLL_DELAY": "0.01"}, drain=4000, measures=(*_DRAIN, *_IDLE),
    ),
    Peer(
        "taskiq, stream", "taskiq_app", (_TASKIQ,), "taskiq worker (2 processes)", packages=TASKIQ,
        environment={"KIND": "stream"}, drain=8000, measures=(*_BOTH, *_IDLE),
    ),
    Peer(
        "taskiq, list", "taskiq_app", (_TASKIQ,), "taskiq worker (2 processes)", packages=TASKIQ,
        environment={"KIND": "list"}, drain=8000, measures=(*_BOTH, *_IDLE),
    ),
    Peer("saq", "saq_app", (_SAQ,), "saq, ttl=-1", packages=SAQ, drain=4000, measures=_BOTH),
    Peer("saq, two workers", "saq_app", (_SAQ, _SAQ), "2 x saq, ttl=-1", packages=SAQ, drain=8000, measures=(*_DRAIN, *_IDLE)),
    Peer("streaq", "streaq_app", (_STREAQ,), "streaq run, ttl=0", packages=STREAQ, drain=2500, bulk=5000, measures=_BOTH),
    Peer(
        "streaq, two workers", "streaq_app", (_STREAQ, _STREAQ), "2 x streaq run, ttl=0", packages=STREAQ,
        drain=4000, measures=(*_DRAIN, *_IDLE),
    ),
    # Killed.
    Peer(
        "celery", "celery_app", _CELERIES, f"{_AT_LEAST_ONCE}, visibility_timeout=20, restored each 5 s", packages=CELERY,
        environment={"LATE": "1", "VISIBILITY": "20"}, measures=_KILL, patience=75,
    ),
    Peer(
        "rq", "rq_app", (_RQ, _RQ), "2 x rq worker --maintenance-interval 10, Retry(max=5); lease of 65 s", packages=RQ,
        environment={"JOB_TIMEOUT": "5"}, measures=_KILL, patience=100,
    ),
    Peer(
        "rq, SimpleWorker", "rq_app", (f"{_RQ} -w rq.worker.SimpleWorker",) * 2,
        "the same with -w rq.worker.SimpleWorker, timeout=5; lease of 65 s", packages=RQ,
        environment={"JOB_TIMEOUT": "5"}, measures=_KILL, patience=100,
    ),
    Peer(
        "dramatiq", "dramatiq_app", (_DRAMATIQ,), "dramatiq, heartbeat_timeout=10_000, maintenance_chance=100_000",
        packages=DRAMATIQ,
        environment={"HEARTBEAT": "10000"}, measures=_KILL, patience=60,
    ),
    Peer(
        "huey", "huey_app", (f"{_HUEY} -k process -w 2",), "huey_consumer -k process -w 2; it has no redelivery", packages=HUEY,
        measures=_KILL, patience=15,
    ),
    Peer(
        "arq", "arq_app", (_ARQ, _ARQ), "2 x arq, job_timeout=10; lease of 20 s", packages=ARQ,
        environment={"JOB_TIMEOUT": "10"}, measures=_KILL, patience=60,
    ),
    Peer(
        "taskiq, stream", "taskiq_app", (_TASKIQ,), "taskiq worker, idle_timeout=10_000, unacknowledged_lock_timeout=10",
        packages=TASKIQ,
        environment={"KIND": "stream, reclaiming"}, measures=_KILL, patience=60,
    ),
    Peer(
        "taskiq, list", "taskiq_app", (_TASKIQ,), "taskiq worker; lists have no redelivery", packages=TASKIQ,
        environment={"KIND": "list"}, measures=_KILL, patience=15,
    ),
    Peer(
        "saq", "saq_app", (_SAQ, _SAQ), "2 x saq, concurrency=2, timeout=5, retries=5; a sweep takes 5 s a job",
        packages=SAQ, environment={"JOB_TIMEOUT": "5", "CONCURRENCY": "2"}, measures=_KILL, patience=130,
    ),
    Peer(
        "streaq", "streaq_app", (_STREAQ, _STREAQ), "2 x streaq run, idle_timeout=10", packages=STREAQ,
        environment={"IDLE_TIMEOUT": "10"}, measures=_KILL, patience=60,
    ),
    # A process that enqueues one job, on SQLite.
    Peer(
        "jobs, SQLite", "jobs_app", (_START,), "jobsctl start",
        environment={"JOBS_BACKEND": "sqlite:///jobs.db"}, measures=("cold",),
    ),
    # Groups, and a job after each.
    Peer("jobs", "jobs_app", (_START,), _STARTED, environment=_TWO, measures=(*_GROUP, *_RESULTS)),
    Peer(
        "celery", "celery_app", _CELERIES, f"a chord; {_TUNED}", packages=CELERY,
        environment={**_LATE, **_KEEP}, measures=(*_GROUP, *_RESULTS),
    ),
    Peer("dramatiq", "dramatiq_app", (_DRAMATIQ,), "a completion callback; dramatiq", packages=DRAMATIQ, measures=_GROUP),
    Peer(
        "huey", "huey_app", (f"{_HUEY} -k process -w 2",), "a chord; huey_consumer -k process -w 2", packages=HUEY,
        environment=_KEEP, measures=_RESULTS,
    ),
    # Ten at once, and so many a second.
    Peer(
        "jobs", "jobs_app", (_START,), f'concurrency = 10; {_STARTED}, mode = "threads", concurrency = 16',
        environment=_THREADS, measures=_LIMIT,
    ),
    Peer(
        "dramatiq", "dramatiq_app", ("dramatiq -p 2 -t 16 dramatiq_app",),
        "ConcurrentRateLimiter(limit=10), min_backoff=10, max_backoff=100; dramatiq -p 2 -t 16",
        packages=DRAMATIQ, measures=_LIMIT,
    ),
    Peer("jobs", "jobs_app", (_START,), f'rate = "500/s"; {_STARTED}', environment=_TWO, measures=_RATE),
    Peer(
        "dramatiq", "dramatiq_app", (_DRAMATIQ,),
        "WindowRateLimiter(limit=500, window=1), min_backoff=10, max_backoff=100; dramatiq", packages=DRAMATIQ,
        environment={"RATE": RATE}, measures=_RATE,
    ),
    Peer(
        "huey", "huey_app", (f"{_HUEY} -k process -w 2",), "rate_limit(500, per=1); huey_consumer -k process -w 2",
        packages=HUEY,
        environment={"RATE": RATE}, measures=_RATE,
    ),
    # Ten thousand jobs of a second at once.
    Peer(
        "jobs", "jobs_app", (_START,), f'{_STARTED}, mode = "async", concurrency = 5000', environment=_ASYNC, measures=_MANY,
    ),
    Peer(
        "taskiq, list", "taskiq_app", ("taskiq worker --max-async-tasks 5000 taskiq_app:broker",),
        "taskiq worker --max-async-tasks 5000", packages=TASKIQ, environment={"KIND": "list"}, measures=_MANY,
    ),
    Peer(
        "arq", "arq_app", (_ARQ, _ARQ), "2 x arq, max_jobs=5000, keep_result=0", packages=ARQ,
        environment={"MAX_JOBS": "5000"}, measures=_MANY,
    ),
    Peer(
        "celery", "celery_app", (f"{_QUIET} -P gevent -c 5000 -n a@%h", f"{_QUIET} -P gevent -c 5000 -n b@%h"),
        "2 x celery worker -P gevent -c 5000", packages=CELERY, environment={"PREFETCH": "1"}, measures=_MANY,
    ),
    Peer(
        "dramatiq", "dramatiq_app", ("dramatiq-gevent -p 2 -t 5000 dramatiq_app",), "dramatiq-gevent -p 2 -t 5000",
        packages=DRAMATIQ, measures=_MANY,
    ),
]  # fmt: skip

_RABBITMQ = [
    Peer(
        "jobs", "jobs_app", (_START,), "quorum queues; jobsctl start", "quorum queues, confirmed", broker="rabbitmq",
        drain=80_000, bulk=40_000, measures=(*_BOTH, *_IDLE),
    ),
    Peer(
        "jobs, two workers", "jobs_app", (_START,), f"quorum queues; {_STARTED}", broker="rabbitmq",
        environment=_TWO, drain=100_000, measures=(*_DRAIN, *_IDLE, *_KILL),
    ),
    Peer(
        "jobs, classic", "jobs_app", (_START,), f"classic queues; {_STARTED}", "classic queues, confirmed", broker="rabbitmq",
        environment={**_TWO, **_CLASSIC}, drain=60_000, bulk=30_000, measures=(*_BOTH, "latency", *_KILL),
    ),
    Peer(
        "celery", "celery_app", (_CELERY,), "classic queue; celery worker", "classic queue, not confirmed: its default",
        packages=CELERY,
        broker="rabbitmq", environment=_UNCONFIRMED, drain=5000, enqueue=1500, bulk=1500, measures=(*_BOTH, *_IDLE),
    ),
    Peer(
        "celery, tuned", "celery_app", _CELERIES, f"classic queue; {_TUNED}", "classic queue, confirmed", packages=CELERY,
        broker="rabbitmq", environment=_LATE, drain=7000, enqueue=1500, bulk=1500, measures=(*_BOTH, *_IDLE),
    ),
    Peer(
        "celery, quorum", "celery_app", _CELERIES, f"quorum queue; {_TUNED}", "quorum queue, confirmed", packages=CELERY,
        broker="rabbitmq", environment=_QUORUM, drain=6000, enqueue=1500, bulk=1500, measures=(*_BOTH, "latency"),
    ),
    Peer(
        "dramatiq", "dramatiq_app", (_DRAMATIQ,), "classic queues, it has no others; dramatiq",
        "classic queues, not confirmed: its default", packages=DRAMATIQ,
        broker="rabbitmq", environment=_UNCONFIRMED, drain=12_000, measures=(*_BOTH, *_IDLE),
    ),
    Peer(
        "dramatiq, confirmed", "dramatiq_app", (_DRAMATIQ,), "", "classic queues, confirmed", packages=DRAMATIQ,
        broker="rabbitmq", measures=_ENQUEUE,
    ),
    Peer(
        "taskiq", "taskiq_app", (_TASKIQ,), "quorum queue, qos=200; taskiq worker",
        "quorum queue, confirmed: it cannot do without",
        packages=TASKIQ, broker="rabbitmq", environment={"KIND": "quorum"}, drain=8000, enqueue=1500, measures=(*_BOTH, *_IDLE),
    ),
    Peer(
        "taskiq, classic", "taskiq_app", (_TASKIQ,), "classic queue, qos=200; taskiq worker", "classic queue, confirmed",
        packages=TASKIQ,
        broker="rabbitmq", environment={"KIND": "classic"}, drain=8000, enqueue=1500, measures=(*_BOTH, "latency"),
    ),
    # Killed: the connection is the lease, so that nobody needs a timeout.
    Peer(
        "celery", "celery_app", _CELERIES, f"classic queue; {_AT_LEAST_ONCE}", "", packages=CELERY,
        broker="rabbitmq", environment={"LATE": "1"}, measures=_KILL, patience=20,
    ),
    Peer(
        "celery, quorum", "celery_app", _CELERIES, f"quorum queue; {_AT_LEAST_ONCE}", "", packages=CELERY,
        broker="rabbitmq", environment={"LATE": "1", "QUEUES": "quorum"}, measures=_KILL, patience=20,
    ),
    Peer(
        "dramatiq", "dramatiq_app", (_DRAMATIQ,), "classic queues; dramatiq", "", packages=DRAMATIQ,
        broker="rabbitmq", measures=_KILL, patience=20,
    ),
    Peer(
        "taskiq", "taskiq_app", (_TASKIQ,), "quorum queue, qos=200; taskiq worker", "", packages=TASKIQ,
        broker="rabbitmq", environment={"KIND": "quorum"}, measures=_KILL, patience=20,
    ),
    Peer(
        "taskiq, classic", "taskiq_app", (_TASKIQ,), "classic queue, qos=200; taskiq worker", "", packages=TASKIQ,
        broker="rabbitmq", environment={"KIND": "classic"}, measures=_KILL, patience=20,
    ),
]  # fmt: skip

_POSTGRESQL = [
    Peer(
        "jobs", "jobs_app", (_START,), "jobsctl start", broker="postgres", drain=120_000, bulk=60_000,
        measures=(*_POSTGRES, "commits"),
    ),
    Peer(
        "jobs, two workers", "jobs_app", (_START,), _STARTED, broker="postgres",
        environment=_TWO, drain=150_000, measures=(*_DRAIN, *_KILL), bloat=True,
    ),
    Peer(
        "procrastinate", "procrastinate_app", (f"{_PROCRASTINATE} worker",), "procrastinate worker", packages=PROCRASTINATE,
        broker="postgres", setup=_SCHEMA, drain=1500, bulk=20_000, measures=_POSTGRES,
    ),
    Peer(
        "procrastinate, tuned", "procrastinate_app", (f"{_PROCRASTINATE} worker -c 30 --delete-jobs successful",) * 2,
        "2 x procrastinate worker -c 30 --delete-jobs successful", packages=PROCRASTINATE,
        broker="postgres", setup=_SCHEMA, drain=2500, bloat=True,
    ),
    Peer(
        "pgqueuer", "pgqueuer_app", (_PGQ,), "pgq run", packages=PGQUEUER,
        broker="postgres", environment=_PGQUEUER, setup=("pgq install",), drain=15_000, bulk=20_000, measures=_POSTGRES,
    ),
    Peer(
        "pgqueuer, tuned", "pgqueuer_app", (f"{_PGQ} --batch-size 200",) * 2, "2 x pgq run --batch-size 200", packages=PGQUEUER,
        broker="postgres", environment=_PGQUEUER, setup=("pgq install",), drain=40_000, bloat=True,
    ),
    Peer(
        "oban", "oban_app", (f"{_OBAN} --queues default:10",), "oban start --queues default:10", packages=OBAN,
        broker="postgres", setup=_INSTALL, drain=8000, bulk=20_000, measures=_POSTGRES,
    ),
    Peer(
        "oban, tuned", "oban_app", (f"{_OBAN} --queues default:200",) * 2, "2 x oban start --queues default:200", packages=OBAN,
        broker="postgres", setup=_INSTALL, drain=20_000, bloat=True,
    ),
    Peer(
        "django-tasks-db", "django_app", (_DJANGO,), "manage.py db_worker", packages=DJANGO,
        broker="postgres", environment=_SETTINGS, setup=_MIGRATE, drain=400, enqueue=1000, bulk=4000, measures=_POSTGRES,
    ),
    Peer(
        "django-tasks-db, two workers", "django_app", (_DJANGO, _DJANGO), "2 x manage.py db_worker", packages=DJANGO,
        broker="postgres", environment=_SETTINGS, setup=_MIGRATE, drain=500, bloat=True,
    ),
    # Killed.
    Peer(
        "procrastinate", "procrastinate_app", (f"{_PROCRASTINATE} worker",) * 2,
        "2 x procrastinate worker, stalled jobs retried each 10 s; lease of 30 s", packages=PROCRASTINATE,
        broker="postgres", environment={"RESCUE": "1"}, setup=_SCHEMA, measures=_KILL, patience=75,
    ),
    Peer(
        "pgqueuer", "pgqueuer_app", (f"{_PGQ} --heartbeat-timeout 10",) * 2, "2 x pgq run --heartbeat-timeout 10",
        packages=PGQUEUER,
        broker="postgres", environment=_PGQUEUER, setup=("pgq install",), measures=_KILL, patience=60,
    ),
    Peer(
        "oban", "oban_app", (f"{_OBAN} --queues default:10 --config {{adapters}}/oban.toml",) * 2,
        "2 x oban start --queues default:10, rescue_after = 20, each 5 s", packages=OBAN,
        broker="postgres", setup=_INSTALL, measures=_KILL, patience=75,
    ),
    Peer(
        "django-tasks-db", "django_app", (_DJANGO, _DJANGO), "2 x manage.py db_worker; it has no redelivery", packages=DJANGO,
        broker="postgres", environment=_SETTINGS, setup=_MIGRATE, measures=_KILL, patience=40,
    ),
]  # fmt: skip

PEERS = [*_REDIS, *_RABBITMQ, *_POSTGRESQL]
