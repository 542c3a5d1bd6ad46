"""RQ."""

import os

import common
from redis import Redis
from rq import Queue, Retry

queue = Queue(connection=Redis.from_url(common.BROKER)) if common.BROKER else None
JOBS = {"noop": common.noop, "stamp": common.stamp, "work": common.work}
OPTIONS = {"result_ttl": 0}
if "JOB_TIMEOUT" in os.environ:  # a job whose worker has died is retried a minute after this
    OPTIONS |= {"retry": Retry(max=5)}
    TIMEOUT = int(os.environ["JOB_TIMEOUT"])
else:
    TIMEOUT = None


def send(name, argument):
    queue.enqueue(JOBS[name], argument, job_timeout=TIMEOUT, **OPTIONS)


def send_many(name, arguments):
    queue.enqueue_many([Queue.prepare_data(JOBS[name], (argument,), timeout=TIMEOUT, **OPTIONS) for argument in arguments])
