"""Celery."""

import os
import time

import common
from celery import Celery, chord, group

app = Celery("celery_app", broker=common.BROKER)
if common.BROKER.startswith("amqp"):
    transport = {"confirm_publish": "UNCONFIRMED" not in os.environ}
elif "VISIBILITY" in os.environ:  # what is not acknowledged within so many seconds is delivered again; asked every 5 s
    transport = {
        "visibility_timeout": int(os.environ["VISIBILITY"]),
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
    }
else:
    transport = {}
app.conf.update(
    broker_transport_options=transport,
    task_default_queue_type=os.environ.get("QUEUES", "classic"),
    task_ignore_result="RESULTS" not in os.environ,
    result_backend=common.BROKER if "RESULTS" in os.environ else None,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=int(os.environ.get("PREFETCH", "4")),
    task_acks_late=os.environ.get("LATE") == "1",
    task_reject_on_worker_lost=os.environ.get("LATE") == "1",
)

noop = app.task(name="noop")(common.noop)
stamp = app.task(name="stamp")(common.stamp)
work = app.task(name="work")(common.work)


@app.task(name="nap")
def nap(n):
    time.sleep(1.0)  # gevent patches it
    common.record(n)


rated = app.task(name="rated", rate_limit=os.environ.get("RATE"))(common.member)
member = app.task(name="member")(common.member)
finish = app.task(name="finish")(common.finish)

JOBS = {"noop": noop, "stamp": stamp, "work": work, "nap": nap, "rated": rated}


def send(name, argument):
    JOBS[name].apply_async((argument,))


def send_many(name, arguments):
    group(JOBS[name].s(argument) for argument in arguments).apply_async()


def send_group(count, results):
    chord(member.s(n) for n in range(count))(finish.s() if results else finish.si())
