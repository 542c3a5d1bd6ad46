"""The peers and their settings: those that each recommends, with late acknowledgement where there is a choice."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Peer:
    """One row of the tables."""

    name: str
    adapter: str  # a module of adapters/
    workers: tuple[str, ...]  # commands in the peer's environment; together they are the worker set
    settings: str = ""  # the text for the table, if the commands do not say it
    packages: tuple[str, ...] = ()  # of its virtual environment; None: use this one
    broker: str = "redis"
    environment: dict[str, str] = field(default_factory=dict)
    drain: int = 3000  # jobs
    enqueue: int = 2000
    setup: tuple[str, ...] = ()  # commands that prepare an empty broker
    bulk: int = 0  # jobs of the bulk call; 0: there is none
    measures: tuple[str, ...] = ("drain", "enqueue", "latency", "kill")
    bloat: bool = False  # whether bloat.py measures it

    @property
    def cold(self) -> str:
        """The code of a process that enqueues one job."""
        return f"from {self.adapter} import send; send('noop', -1)"


CELERY = ("celery[redis]", "hiredis", "gevent", "amqp")
RQ = ("rq", "hiredis")
DRAMATIQ = ("dramatiq[redis,rabbitmq]", "hiredis", "pika")
HUEY = ("huey", "redis", "hiredis")
ARQ = ("arq", "hiredis")
TASKIQ = ("taskiq", "taskiq-redis", "hiredis", "taskiq-aio-pika", "aio-pika")
SAQ = ("saq[redis,hiredis]", "uvloop", "typing_extensions")
STREAQ = ("streaq", "hiredis")
PROCRASTINATE = ("procrastinate", "psycopg[binary]")
PGQUEUER = ("pgqueuer[asyncpg]", "typer<0.27")  # its command does not start with newer ones
OBAN = ("oban", "psycopg[binary]")
DJANGO = ("django-tasks-db", "django", "psycopg[binary]")

_JOBS = "python -m jobs_core worker"
_CELERY = "python -m celery -A celery_app worker --without-gossip --without-mingle --without-heartbeat -l WARNING"
_CELERIES = (f"{_CELERY} -P prefork -c 1 -n a@%h", f"{_CELERY} -P prefork -c 1 -n b@%h")
_DRAMATIQ = "dramatiq -p 2 -t 8 dramatiq_app"
_TASKIQ = "taskiq worker --workers 2 --max-async-tasks 100 taskiq_app:broker"
_START = "python -m jobs_core start"
_PROCRASTINATE = "procrastinate --app=procrastinate_app.app"
_OBAN = "oban start --dsn {broker} --cron-modules oban_app"
_DJANGO = "python -m django db_worker"
_DRAIN = ("drain",)
_MANY = ("many",)
_COLD = ("cold",)
_GROUP = ("group",)
_RESULTS = ("results",)
_LIMIT = ("limit",)
_RATE = ("rate",)
_KEEP = {"RESULTS": "1"}
_POSTGRES = ("drain", "enqueue", "latency", "idle")
_PGQUEUER = {"PGDSN": "{broker}"}
_SETTINGS = {"DJANGO_SETTINGS_MODULE": "django_settings"}

RATE = "500"
"""Jobs that may start in a second, where rates are measured."""

PEERS = [
    Peer("jobs", "jobs_app", (_JOBS, _JOBS), "2 x jobsctl worker, sync", drain=100_000, enqueue=4000, bulk=100_000),
    Peer(
        "celery", "celery_app", _CELERIES, "2 x celery worker -P prefork -c 1, acks_late, prefetch 64", CELERY,
        environment={"PREFETCH": "64", "LATE": "1"}, drain=2000, enqueue=1000, bulk=1000,
    ),
    Peer(
        "celery, one worker", "celery_app", (f"{_CELERY} -P prefork -c 2",),
        "celery worker -P prefork -c 2, acks_late, prefetch 64", CELERY,
        environment={"PREFETCH": "64", "LATE": "1"}, drain=1500, measures=_DRAIN,
    ),
    Peer(
        "rq", "rq_app", ("rq worker-pool -q -n 2 -u {broker}",), "rq worker-pool -n 2, default worker (forks a job)", RQ,
        drain=100, enqueue=1500, bulk=3000, measures=("drain", "enqueue", "kill"),
    ),
    Peer(
        "rq, SimpleWorker", "rq_app", ("rq worker-pool -q -n 2 -w rq.worker.SimpleWorker -u {broker}",),
        "rq worker-pool -n 2 -w rq.worker.SimpleWorker", RQ, drain=1000, measures=("drain", "latency", "kill"),
    ),
    Peer("dramatiq", "dramatiq_app", (_DRAMATIQ,), "", DRAMATIQ, drain=8000),
    Peer(
        "huey", "huey_app", ("python -m huey.bin.huey_consumer huey_app.huey -k process -w 2",),
        "huey_consumer -k process -w 2, results=False", HUEY, drain=8000,
    ),
    Peer(
        "arq", "arq_app", ("arq arq_app.WorkerSettings",) * 2, "2 x arq, max_jobs=10, keep_result=0", ARQ,
        drain=1000, enqueue=1500,
    ),
    Peer(
        "arq, tuned", "arq_app", ("arq arq_app.WorkerSettings",) * 2, "2 x arq, max_jobs=100, poll_delay=0.01, keep_result=0",
        ARQ,
        environment={"MAX_JOBS": "100", "POLL_DELAY": "0.01"}, drain=2000, measures=("drain", "latency"),
    ),
    Peer(
        "taskiq, stream", "taskiq_app", (_TASKIQ,), "", TASKIQ,
        environment={"KIND": "stream"}, drain=8000,
    ),
    Peer(
        "taskiq, list", "taskiq_app", (_TASKIQ,), "", TASKIQ,
        environment={"KIND": "list"}, drain=8000,
    ),
    Peer("saq", "saq_app", ("saq saq_app.settings",) * 2, "2 x saq, concurrency=10, ttl=-1", SAQ, drain=4000),
    Peer(
        "streaq", "streaq_app", ("streaq run streaq_app:worker",) * 2, "2 x streaq run, concurrency=16, ttl=0", STREAQ,
        drain=3000, bulk=5000,
    ),
    # A process that enqueues one job.
    Peer("jobs", "jobs_app", (), measures=_COLD),
    Peer("jobs, SQLite", "jobs_app", (), environment={"JOBS_BACKEND": "sqlite:///jobs.db"}, measures=_COLD),
    Peer("celery", "celery_app", (), "", CELERY, measures=_COLD),
    Peer("rq", "rq_app", (), "", RQ, measures=_COLD),
    Peer("dramatiq", "dramatiq_app", (), "", DRAMATIQ, measures=_COLD),
    Peer("huey", "huey_app", (), "results=False", HUEY, measures=_COLD),
    Peer(
        "huey, SQLite", "huey_app", (), "results=False", HUEY,
        environment={"BENCH_SQLITE": "huey.db"}, measures=_COLD,
    ),
    # Groups, and a job after each.
    Peer("jobs", "jobs_app", (_JOBS, _JOBS), "2 x jobsctl worker, sync", measures=(*_GROUP, *_RESULTS)),
    Peer(
        "celery", "celery_app", _CELERIES, "a chord; 2 x celery worker -P prefork -c 1, acks_late, prefetch 64", CELERY,
        environment={"PREFETCH": "64", "LATE": "1", **_KEEP}, measures=(*_GROUP, *_RESULTS),
    ),
    Peer("dramatiq", "dramatiq_app", (_DRAMATIQ,), f"a completion callback; {_DRAMATIQ}", DRAMATIQ, measures=_GROUP),
    Peer(
        "huey", "huey_app", ("python -m huey.bin.huey_consumer huey_app.huey -k process -w 2",),
        "a chord; huey_consumer -k process -w 2", HUEY, environment=_KEEP, measures=_RESULTS,
    ),
    # Ten at once, and so many a second.
    Peer(
        "jobs", "jobs_app", (f"{_JOBS} --mode threads --concurrency 16",) * 2,
        "concurrency = 10; 2 x jobsctl worker --mode threads --concurrency 16", measures=_LIMIT,
    ),
    Peer(
        "dramatiq", "dramatiq_app", ("dramatiq -p 2 -t 16 dramatiq_app",),
        "ConcurrentRateLimiter(limit=10), min_backoff=10, max_backoff=100; dramatiq -p 2 -t 16", DRAMATIQ, measures=_LIMIT,
    ),
    Peer("jobs", "jobs_app", (_JOBS, _JOBS), 'rate = "500/s"; 2 x jobsctl worker, sync', measures=_RATE),
    Peer(
        "celery", "celery_app", _CELERIES, 'rate_limit="250/s" for each of 2 x celery worker -P prefork -c 1', CELERY,
        environment={"PREFETCH": "4", "LATE": "1", "RATE": "250/s"}, measures=_RATE,
    ),
    Peer(
        "dramatiq", "dramatiq_app", (_DRAMATIQ,),
        f"WindowRateLimiter(limit=500, window=1), min_backoff=10, max_backoff=100; {_DRAMATIQ}", DRAMATIQ,
        environment={"RATE": RATE}, measures=_RATE,
    ),
    Peer(
        "huey", "huey_app", ("python -m huey.bin.huey_consumer huey_app.huey -k process -w 2",),
        "rate_limit(500, per=1); huey_consumer -k process -w 2, results=False", HUEY,
        environment={"RATE": RATE}, measures=_RATE,
    ),
    # On RabbitMQ. All acknowledge late and wait for the broker's confirms.
    Peer(
        "jobs", "jobs_app", (_JOBS, _JOBS), "quorum queues; 2 x jobsctl worker, sync", broker="rabbitmq",
        drain=40_000, bulk=40_000,
    ),
    Peer(
        "jobs, classic", "jobs_app", (_JOBS, _JOBS), "classic queues; 2 x jobsctl worker, sync", broker="rabbitmq",
        environment={"JOBS_BACKEND": "{broker}?queues=classic"}, drain=40_000, bulk=40_000,
    ),
    Peer(
        "celery", "celery_app", _CELERIES, "quorum queue; 2 x celery worker -P prefork -c 1, acks_late, prefetch 64", CELERY,
        broker="rabbitmq", environment={"PREFETCH": "64", "LATE": "1", "QUEUES": "quorum"},
        drain=2000, enqueue=1000, bulk=1000,
    ),
    Peer(
        "celery, classic", "celery_app", _CELERIES,
        "classic queue; 2 x celery worker -P prefork -c 1, acks_late, prefetch 64", CELERY,
        broker="rabbitmq", environment={"PREFETCH": "64", "LATE": "1"}, drain=2000, enqueue=1000, bulk=1000,
    ),
    Peer(
        "dramatiq, classic", "dramatiq_app", (_DRAMATIQ,), f"classic queues, it has no others; {_DRAMATIQ}", DRAMATIQ,
        broker="rabbitmq", drain=8000,
    ),
    Peer(
        "taskiq", "taskiq_app", (_TASKIQ,), f"quorum queue, qos=200; {_TASKIQ}", TASKIQ,
        broker="rabbitmq", environment={"KIND": "quorum"}, drain=4000, enqueue=1000,
    ),
    Peer(
        "taskiq, classic", "taskiq_app", (_TASKIQ,), f"classic queue, qos=200; {_TASKIQ}", TASKIQ,
        broker="rabbitmq", environment={"KIND": "classic"}, drain=4000, enqueue=1000,
    ),
    # On PostgreSQL: what one types first, and below it, the settings that help each most, on both cores.
    Peer(
        "jobs", "jobs_app", (_START,), "jobsctl start", broker="postgres", drain=60_000, bulk=60_000,
        measures=(*_POSTGRES, "commits"),
    ),
    Peer(
        "jobs, two workers", "jobs_app", (_START,), "jobsctl start, workers = 2", broker="postgres",
        environment={"JOBS_POOLS__DEFAULT__WORKERS": "2"}, drain=60_000, measures=_DRAIN, bloat=True,
    ),
    Peer(
        "procrastinate", "procrastinate_app", (f"{_PROCRASTINATE} worker",), "procrastinate worker", PROCRASTINATE,
        broker="postgres", setup=(f"{_PROCRASTINATE} schema --apply",), drain=1000, bulk=20_000, measures=_POSTGRES,
    ),
    Peer(
        "procrastinate, tuned", "procrastinate_app", (f"{_PROCRASTINATE} worker -c 30 --delete-jobs successful",) * 2,
        "2 x procrastinate worker -c 30 --delete-jobs successful", PROCRASTINATE,
        broker="postgres", setup=(f"{_PROCRASTINATE} schema --apply",), drain=2000, measures=_DRAIN, bloat=True,
    ),
    Peer(
        "pgqueuer", "pgqueuer_app", ("pgq run --log-level INFO pgqueuer_app:main",), "", PGQUEUER,
        broker="postgres", environment=_PGQUEUER, setup=("pgq install",), drain=4000, bulk=20_000, measures=_POSTGRES,
    ),
    Peer(
        "pgqueuer, tuned", "pgqueuer_app", ("pgq run --log-level INFO pgqueuer_app:main --batch-size 200",) * 2,
        "2 x pgq run --batch-size 200", PGQUEUER,
        broker="postgres", environment=_PGQUEUER, setup=("pgq install",), drain=8000, measures=_DRAIN, bloat=True,
    ),
    Peer(
        "oban", "oban_app", (f"{_OBAN} --queues default:10",), "oban start --queues default:10", OBAN,
        broker="postgres", setup=("oban install --dsn {broker}",), drain=2000, bulk=20_000, measures=_POSTGRES,
    ),
    Peer(
        "oban, tuned", "oban_app", (f"{_OBAN} --queues default:200",) * 2, "2 x oban start --queues default:200", OBAN,
        broker="postgres", setup=("oban install --dsn {broker}",), drain=8000, measures=_DRAIN, bloat=True,
    ),
    Peer(
        "django-tasks-db", "django_app", (_DJANGO,), "manage.py db_worker", DJANGO,
        broker="postgres", environment=_SETTINGS, setup=("python -m django migrate",), drain=500, enqueue=1000, bulk=4000,
        measures=_POSTGRES,
    ),
    Peer(
        "django-tasks-db, two workers", "django_app", (_DJANGO, _DJANGO), "2 x manage.py db_worker", DJANGO,
        broker="postgres", environment=_SETTINGS, setup=("python -m django migrate",), drain=1000, measures=_DRAIN, bloat=True,
    ),
    # Ten thousand jobs of a second at once.
    Peer(
        "jobs, async", "jobs_app", (f"{_JOBS} --mode async --concurrency 5000",) * 2,
        "2 x jobsctl worker --mode async --concurrency 5000", measures=_MANY,
    ),
    Peer(
        "taskiq, stream", "taskiq_app", ("taskiq worker --workers 2 --max-async-tasks 5000 taskiq_app:broker",), "", TASKIQ,
        environment={"KIND": "stream"}, measures=_MANY,
    ),
    Peer(
        "taskiq, list", "taskiq_app", ("taskiq worker --workers 2 --max-async-tasks 5000 taskiq_app:broker",), "", TASKIQ,
        environment={"KIND": "list"}, measures=_MANY,
    ),
    Peer(
        "arq", "arq_app", ("arq arq_app.WorkerSettings",) * 2, "2 x arq, max_jobs=5000, keep_result=0", ARQ,
        environment={"MAX_JOBS": "5000"}, measures=_MANY,
    ),
    Peer(
        "celery, gevent", "celery_app",
        (f"{_CELERY} -P gevent -c 5000 -n a@%h", f"{_CELERY} -P gevent -c 5000 -n b@%h"),
        "2 x celery worker -P gevent -c 5000", CELERY, environment={"PREFETCH": "1"}, measures=_MANY,
    ),
]  # fmt: skip
