"""Huey."""

import os

import common
from huey import RedisHuey, SqliteHuey, group

if "BENCH_SQLITE" in os.environ:
    huey = SqliteHuey("bench", results=False, filename=os.environ["BENCH_SQLITE"])
else:
    huey = RedisHuey("bench", results="RESULTS" in os.environ, url=common.BROKER)

noop = huey.task(name="noop")(common.noop)
stamp = huey.task(name="stamp")(common.stamp)
work = huey.task(name="work")(common.work)
rated = huey.task(name="rated")(huey.rate_limit("rate", int(os.environ.get("RATE", "1")), per=1)(common.member))
member = huey.task(name="member")(common.member)
finish = huey.task(name="finish")(common.finish)
JOBS = {"noop": noop, "stamp": stamp, "work": work, "rated": rated}


def send(name, argument):
    JOBS[name](argument)


def send_group(count, results):
    huey.enqueue(group([member.s(n) for n in range(count)]).then(finish.s()))
