"""Huey."""

import os

import common
from huey import RedisHuey, SqliteHuey

if "BENCH_SQLITE" in os.environ:
    huey = SqliteHuey("bench", results=False, filename=os.environ["BENCH_SQLITE"])
else:
    huey = RedisHuey("bench", results=False, url=common.BROKER)

noop = huey.task(name="noop")(common.noop)
stamp = huey.task(name="stamp")(common.stamp)
work = huey.task(name="work")(common.work)
JOBS = {"noop": noop, "stamp": stamp, "work": work}


def send(name, argument):
    JOBS[name](argument)
