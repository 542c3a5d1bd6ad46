"""RQ."""

import common
from redis import Redis
from rq import Queue

queue = Queue(connection=Redis.from_url(common.BROKER)) if common.BROKER else None
JOBS = {"noop": common.noop, "stamp": common.stamp, "work": common.work}


def send(name, argument):
    queue.enqueue(JOBS[name], argument, result_ttl=0)


def send_many(name, arguments):
    queue.enqueue_many([Queue.prepare_data(JOBS[name], (argument,), result_ttl=0) for argument in arguments])
