"""Large arguments beside RabbitMQ's queues stay until the broker has the acknowledgement of their job."""

from __future__ import annotations

import threading

from jobs_core import App, job
from jobs_core.config import Config, Payloads, Pool
from jobs_core.registry import Registry
from jobs_core.units import Size
from jobs_core.worker.main import Worker

from ..support.project import until
from ..support.proxy import Proxy

LONG = "x" * 5000


def serve(app, **options):
    worker = Worker(app, "w", Pool(mode="threads", concurrency=1), None, **options)
    thread = threading.Thread(target=worker.run)
    thread.start()
    return worker, thread


def test_a_job_whose_acknowledgement_is_lost_has_its_arguments_when_another_worker_runs_it(node, rabbitmq_url, tmp_path):
    registry, ran, quiet = Registry(), list[int](), threading.Event()
    payloads = Payloads(url=f"file://{tmp_path}/blobs?durability=process", above=Size(1000))

    @job(registry=registry, name="take")
    def take(text: str) -> None:
        ran.append(len(text))
        if len(ran) == 1:
            assert quiet.wait(20)
            proxy.black_hole()

    with Proxy(node.port) as proxy:
        near = App(Config(backend=rabbitmq_url, payloads=payloads), registry=registry)
        through = rabbitmq_url.replace(f":{node.port}/", f":{proxy.port}/")
        cut_off = App(Config(backend=through, payloads=payloads), registry=registry)
        near.enqueue(take.call(LONG))
        first, ending = serve(cut_off, max_jobs=1)
        until(lambda: ran and not first.courier._backend._consumer.subscribed)
        quiet.set()  # the courier asks for nothing more: the next thing that it sends is the acknowledgement
        until(lambda: first.courier.done)
        proxy.refuse()
        second, ended = serve(near)
        until(lambda: len(ran) == 2 or second.courier.failed)
        until(lambda: second.courier.done or second.courier.failed)
        until(lambda: not list(near.payloads.store.blobs()))
        for worker, thread in ((first, ending), (second, ended)):
            worker.courier.stop(0.0)
            thread.join(30)
    assert ran == [len(LONG)] * 2
    assert second.courier.failed == 0
    near.close()
    cut_off.close()
