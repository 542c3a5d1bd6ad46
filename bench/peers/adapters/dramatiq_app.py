"""Dramatiq, on Redis or RabbitMQ."""

import os
import time

import common
import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import GroupCallbacks
from dramatiq.rate_limits import ConcurrentRateLimiter, WindowRateLimiter
from dramatiq.rate_limits.backends import RedisBackend

amqp = common.BROKER.startswith("amqp")
if amqp:
    broker = RabbitmqBroker(url=common.BROKER, confirm_delivery="UNCONFIRMED" not in os.environ)
elif "HEARTBEAT" in os.environ:  # milliseconds until a worker without a sign of life is dead; one call in ten looks for such
    broker = RedisBroker(url=common.BROKER, heartbeat_timeout=int(os.environ["HEARTBEAT"]), maintenance_chance=100_000)
else:
    broker = RedisBroker(url=common.BROKER)
dramatiq.set_broker(broker)

noop = dramatiq.actor(actor_name="noop")(common.noop)
stamp = dramatiq.actor(actor_name="stamp")(common.stamp)
work = dramatiq.actor(actor_name="work")(common.work)


@dramatiq.actor(actor_name="nap")
def nap(n):
    time.sleep(1.0)  # gevent patches it
    common.record(n)


JOBS = {"noop": noop, "stamp": stamp, "work": work, "nap": nap}

if not amqp:  # the limiter and the callbacks need Redis
    counters = RedisBackend(url=common.BROKER)
    dramatiq.get_broker().add_middleware(GroupCallbacks(counters))
    ten = ConcurrentRateLimiter(counters, "ten", limit=10, ttl=60_000)
    window = WindowRateLimiter(counters, "rate", limit=int(os.environ.get("RATE", "1")), window=1)

    @dramatiq.actor(actor_name="limited", max_retries=None, min_backoff=10, max_backoff=100)
    def limited(n):
        with ten.acquire():  # raises RateLimitExceeded, which the retries middleware puts off
            common.limited(n)

    @dramatiq.actor(actor_name="rated", max_retries=None, min_backoff=10, max_backoff=100)
    def rated(n):
        with window.acquire():
            common.member(n)

    member = dramatiq.actor(actor_name="member")(common.member)
    finish = dramatiq.actor(actor_name="finish")(common.finish)
    JOBS |= {"limited": limited, "rated": rated}


def send(name, argument):
    JOBS[name].send(argument)


def send_group(count, results):
    members = dramatiq.group([member.message(n) for n in range(count)])
    members.add_completion_callback(finish.message())
    members.run()
