"""Procrastinate, with its asynchronous connector, which it recommends."""

import asyncio
import os

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


@app.task(name="work")
async def work(n):
    await asyncio.sleep(0.005)
    common.record(n)


if "RESCUE" in os.environ:  # as its documentation does it: retry what a worker without a heartbeat for 30 s has left

    @app.periodic(cron="* * * * * */10")
    @app.task(queueing_lock="rescue", pass_context=True)
    async def rescue(context, timestamp):
        for job in await app.job_manager.get_stalled_jobs():
            await app.job_manager.retry_job(job)


JOBS = {"noop": noop, "stamp": stamp, "work": work}


async def send(name, argument):
    await JOBS[name].defer_async(n=argument)


async def send_many(name, arguments):
    await JOBS[name].batch_defer_async(*[{"n": argument} for argument in arguments])
