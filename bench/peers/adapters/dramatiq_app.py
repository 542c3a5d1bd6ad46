"""Dramatiq."""

import common
import dramatiq
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=common.BROKER))

noop = dramatiq.actor(actor_name="noop")(common.noop)
stamp = dramatiq.actor(actor_name="stamp")(common.stamp)
work = dramatiq.actor(actor_name="work")(common.work)
JOBS = {"noop": noop, "stamp": stamp, "work": work}


def send(name, argument):
    JOBS[name].send(argument)
