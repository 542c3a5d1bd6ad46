"""Ours. The configuration comes from the environment."""

import common

from jobs_core import job


@job(name="noop")
def noop(n: int) -> None:
    common.noop(n)


@job(name="stamp")
def stamp(sent: float) -> None:
    common.stamp(sent)


@job(name="work")
def work(n: int) -> None:
    common.work(n)


@job(name="nap")
async def nap(n: int) -> None:
    import asyncio  # late: a process that only enqueues does without it

    await asyncio.sleep(1.0)
    common.record(n)


JOBS = {"noop": noop, "stamp": stamp, "work": work, "nap": nap}


def send(name, argument):
    JOBS[name].enqueue(argument)


def send_many(name, arguments):
    JOBS[name].enqueue_many([(argument,) for argument in arguments])
