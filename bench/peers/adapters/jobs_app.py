"""Ours. The configuration comes from the environment."""

import common

from jobs_core import group, job


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


@job(name="limited", limits="ten")
def limited(n: int) -> None:
    common.limited(n)


@job(name="rated", limits="rate")
def rated(n: int) -> None:
    common.member(n)


@job(name="member")
def member(n: int) -> None:
    common.member(n)


@job(name="value", store_result=True)
def value(n: int) -> int:
    return common.member(n)


@job(name="finish")
def finish() -> None:
    common.finish()


@job(name="total")
def total(values: list[int]) -> None:
    common.finish(values)


JOBS = {"noop": noop, "stamp": stamp, "work": work, "nap": nap, "limited": limited, "rated": rated}


def send(name, argument):
    JOBS[name].enqueue(argument)


def send_many(name, arguments):
    JOBS[name].enqueue_many([(argument,) for argument in arguments])


def send_group(count, results):
    if results:
        group(value.call(n) for n in range(count)).then(total.step()).enqueue()
    else:
        group(member.call(n) for n in range(count)).then(finish.call()).enqueue()
