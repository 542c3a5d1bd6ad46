"""Dramatiq, on Redis or RabbitMQ."""

import common
import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker

amqp = common.BROKER.startswith("amqp")
dramatiq.set_broker(RabbitmqBroker(url=common.BROKER, confirm_delivery=True) if amqp else RedisBroker(url=common.BROKER))

noop = dramatiq.actor(actor_name="noop")(common.noop)
stamp = dramatiq.actor(actor_name="stamp")(common.stamp)
work = dramatiq.actor(actor_name="work")(common.work)
JOBS = {"noop": noop, "stamp": stamp, "work": work}


def send(name, argument):
    JOBS[name].send(argument)
