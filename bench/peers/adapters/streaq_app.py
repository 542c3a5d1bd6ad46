"""streaq."""

import asyncio
import os

import common
from streaq import Worker

more = {"idle_timeout": int(os.environ["IDLE_TIMEOUT"])} if "IDLE_TIMEOUT" in os.environ else {}
worker = Worker(redis_url=common.BROKER, concurrency=16, **more)


@worker.task(ttl=0)
async def noop(n: int) -> None:
    common.noop(n)


@worker.task(ttl=0)
async def stamp(sent: float) -> None:
    common.stamp(sent)


@worker.task(ttl=0)
async def work(n: int) -> None:
    await asyncio.sleep(0.005)
    common.record(n)


JOBS = {"noop": noop, "stamp": stamp, "work": work}


async def send(name, argument):
    await JOBS[name].enqueue(argument)


async def send_many(name, arguments):
    await worker.enqueue_many([JOBS[name].enqueue(argument) for argument in arguments])


def connected():
    return worker
