"""Procrastinate, with its asynchronous connector, which it recommends."""

import common
import procrastinate

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=common.BROKER))
connected = app.open_async


@app.task(name="noop")
async def noop(n):
    common.noop(n)


@app.task(name="stamp")
async def stamp(n):
    common.stamp(n)


JOBS = {"noop": noop, "stamp": stamp}


async def send(name, argument):
    await JOBS[name].defer_async(n=argument)


async def send_many(name, arguments):
    await JOBS[name].batch_defer_async(*[{"n": argument} for argument in arguments])
