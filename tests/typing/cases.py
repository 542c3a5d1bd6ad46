"""Application code for test_typing.py; never run. Lines that must not pass end in `# error: code`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta, timezone

import jobs_core
from jobs_core import (
    Backoff,
    Flow,
    Injected,
    Retry,
    RetryRule,
    Unique,
    chain,
    current_job,
    ended,
    group,
    injected,
    job,
    provides,
)
from jobs_core.testing import JobsQueue


@job(topic="email", retries=5, timeout=30)
def send_email(to: str, subject: str) -> int:
    return len(to) + len(subject)


@job
def bare(x: int) -> str:
    return str(x)


@job(store_result=True)
async def fetch(url: str) -> bytes:
    return url.encode()


handle = send_email.enqueue("a@b.c", subject="hi")
reveal_type(handle.result(timeout=5))  # reveals: int
reveal_type(send_email("a", "b"))  # reveals: int
reveal_type(bare.enqueue(1).result())  # reveals: str
reveal_type(bare.using(delay=60).enqueue(1).result())  # reveals: str
reveal_type(fetch.enqueue("x").result())  # reveals: bytes
reveal_type(send_email.enqueue_many([("a", "b")])[0].result())  # reveals: int

send_email.enqueue("a@b.c")  # error: call-arg
send_email.enqueue("a@b.c", 5)  # error: arg-type
send_email.enqueue("a@b.c", subject="hi", body="x")  # error: call-arg
send_email.using(priority=9).enqueue(5, "hi")  # error: arg-type
send_email(5, "hi")  # error: arg-type
send_email.call("a")  # error: call-arg
send_email.call("a", "b")
send_email.using(prio=1)  # error: call-arg
send_email.using(delay=timedelta(minutes=1), topic="vip", unique=Unique(scope="5m"), headers={"a": 1})
send_email.using(delay=[])  # error: arg-type
bare.enqueue("x")  # error: arg-type
handle.result().upper()  # error: attr-defined


async def view() -> None:
    reveal_type((await fetch.aenqueue("x")).id)  # reveals: str
    reveal_type(await (await fetch.aenqueue("x")).aresult(1.0))  # reveals: bytes
    reveal_type(await fetch("x"))  # reveals: bytes
    await fetch.aenqueue(5)  # error: arg-type


@job(retries="many")  # error: call-overload
def wrong_option() -> None: ...


@job
def parent() -> None:
    run = current_job()
    run.enqueue(send_email, "a", "b")
    run.enqueue(send_email, "a")  # error: call-arg
    reveal_type(run.enqueue(bare, 1).result())  # reveals: str


def test_of_an_application(jobs_queue: JobsQueue) -> None:
    reveal_type(jobs_queue.assert_enqueued(send_email, to=lambda to: to.endswith("@b.c"), count=2).topic)  # reveals: str
    reveal_type(jobs_queue.perform(send_email, "a", "b"))  # reveals: int
    reveal_type(jobs_queue.perform(fetch, "x"))  # reveals: bytes
    reveal_type(jobs_queue.drain(scheduled=True))  # reveals: int
    with JobsQueue() as queue:
        reveal_type(queue.dead()[0].reason)  # reveals: str
    jobs_queue.travel("1h")
    jobs_queue.travel(timedelta(hours=1))
    jobs_queue.travel(to=5)  # error: arg-type
    jobs_queue.perform(send_email, "a")  # error: call-arg
    jobs_queue.assert_enqueued("shop.send_email")  # error: arg-type
    jobs_queue.assert_enqueued(send_email, count="2")  # error: arg-type


@provides
def connection() -> bytes:
    return b""


@provides(scope="worker")
async def number() -> int:
    return 1


@provides(scope="queue")  # error: call-overload
def wrong_scope() -> str:
    return ""


@job
def with_injected(to: str, *, connection: Injected[bytes] = injected) -> str:
    return connection.decode() + connection  # error: operator


with_injected.enqueue("a")
with_injected.enqueue()  # error: call-arg
with_injected("a", connection=b"")
with_injected("a", connection="")  # error: arg-type
reveal_type(number)  # reveals: def () -> typing.Coroutine[Any, Any, int]


# The help for words of other systems hides nothing from a type checker.
jobs_core.Celery  # error: attr-defined
send_email.delay("a", "b")  # error: attr-defined
send_email.apply_async(("a", "b"))  # error: attr-defined
send_email.using(countdown=5)  # error: call-arg
handle.get()  # error: attr-defined
current_job().request  # error: attr-defined
Retry(countdown=5)  # error: call-arg


@job(queue="email")  # error: call-overload
def of_another_system() -> None: ...


# Rules by exception, and jobs that follow an end.
@job(
    retry_on={ConnectionError: Backoff("1m", factor=1), TimeoutError: RetryRule(retries=9, backoff="5s"), OSError: None},
    discard_on=(LookupError,),
    on_done=bare,
    on_dead="shop.refund",
    backoff=Backoff(timedelta(seconds=2), "10m"),
)
def with_rules(order: int) -> None: ...


@job(retry_on=ConnectionError, discard_on=LookupError, on_dead=send_email.using(topic="alerts"))
def with_one_class(order: int) -> None: ...


@job(retry_on=(int,))  # error: arg-type
def retried_on_no_exception() -> None: ...


@job(retry_on={OSError: []})  # error: dict-item
def retried_by_no_rule() -> None: ...


@job(discard_on="LookupError")  # error: arg-type
def discarded_by_name() -> None: ...


@job(on_dead=print)  # error: call-overload
def followed_by_a_function() -> None: ...


with_rules.using(retry_on=(OSError,))  # error: call-arg
RetryRule(retries="many")  # error: arg-type

bare.using(at=datetime.now(timezone.utc), expires_at=datetime.now(timezone.utc) + timedelta(hours=1)).enqueue(1)
bare.using(delay=datetime.now(timezone.utc))  # error: arg-type
bare.using(at=60)  # error: arg-type


@job(at=datetime.now(timezone.utc))  # error: call-overload
def at_one_time() -> None: ...


bare.using(unique=Unique.throttle("10m", key="{x}")).using(unique=Unique.debounce(30, longest=timedelta(minutes=5)))
Unique.debounce()  # error: call-arg
Unique.throttle([])  # error: arg-type


@job(limits=("partner", "partner:{account}", lambda account: f"tenant:{account}"), key="{account}")
def limited(account: str) -> None: ...


limited.using(limits="partner", key=lambda account: account).using(limits=None, key=None).enqueue("acme")
limited.using(limits=lambda account: ["a", "b"]).enqueue("acme")
limited.using(limits=5)  # error: arg-type
limited.using(key=5)  # error: arg-type
Retry(delay=30, close=("partner:acme", "partner"))
Retry(close=5)  # error: arg-type


# Resumable jobs.
def words_after(last: int | None) -> list[str]:
    return ["a", "b"][last or 0 :]


async def awords() -> AsyncIterator[str]:
    yield "a"


async def awords_after(last: int | None) -> AsyncIterator[str]:
    yield "a"


@job(resumable=True, step_timeout="30s")
async def resumable() -> None:
    context = current_job()
    reveal_type(context.stopping)  # reveals: bool
    for word in context.steps(words_after, cursor=lambda word: len(word)):
        reveal_type(word)  # reveals: str
    for number in context.steps([1, 2]):
        reveal_type(number)  # reveals: int
    async for word in context.steps(awords()):
        reveal_type(word)  # reveals: str
    async for word in context.steps(awords_after, cursor=lambda word: word.upper()):
        reveal_type(word)  # reveals: str
    context.steps(words_after)  # error: call-overload
    context.steps(5)  # error: call-overload
    context.checkpoint({"page": 2})
    context.checkpoint()  # error: call-arg


@job(resumable="yes")  # error: call-overload
def wrong_resumable() -> None: ...


def resumable_in_a_test(jobs_queue: JobsQueue) -> None:
    reveal_type(jobs_queue.drain(stop_after=3))  # reveals: int
    jobs_queue.drain(stop_after="3")  # error: arg-type


# -- flows -------------------------------------------------------------------------------------------


@job(store_result=True)
def charge(order: int) -> str:
    return f"paid {order}"


@job(store_result=True)
async def print_label(order: int) -> bytes:
    return b"label"


@job
def send_mail(order: int, receipt: str, label: bytes) -> None: ...


@job(store_result=True)
def resize(data: bytes, width: int) -> bytes:
    return data[:width]


@job(store_result=True)
async def upload(data: bytes, bucket: str = "images") -> float:
    return 1.0


@job
def merge(parts: Sequence[bytes], name: str) -> int:
    return len(parts)


@job
def ring() -> None: ...


with Flow("order", headers={"order": "7"}) as flow:
    paid = flow.add(charge.call(7))
    label = flow.add(print_label.call(7), after=paid)
    reveal_type(paid.result)  # reveals: str
    reveal_type(label.result)  # reveals: bytes
    flow.add(send_mail.call(7, paid.result, label.result))
    flow.add(send_mail.call(7, label.result, label.result))  # error: arg-type
    flow.add(ring.call(), after=[flow.all, "stage"], when="failed")
    flow.add(ring.call(), after=[paid, ended(label)], when="never")  # error: call-overload
    flow.add(ring)  # error: call-overload
    reveal_type(flow.add(chain(fetch.call("u"), resize.step(5))).result)  # reveals: bytes
    reveal_type(flow.add(group(fetch.call("u") for _ in range(3))).result)  # reveals: list[bytes]
reveal_type(flow.handle.wait(5).total)  # reveals: int

reveal_type(chain(fetch.call("u"), resize.step(width=200), upload.step()).enqueue().result())  # reveals: float
chain(charge.call(5), resize.step(width=5))  # error: misc
chain(resize.step(width=5))  # error: call-overload
chain(resize.step(width=5), resize.step(width=4)).enqueue()  # error: attr-defined
chain(fetch.call("u"), group([resize.step(5), chain(resize.step(6), resize.step(7))]), merge.step("x"))
reveal_type(chain(fetch.call("u"), chain(resize.step(5), upload.step())).enqueue().result())  # reveals: float
chain(charge.call(5), chain(resize.step(5), upload.step()))  # error: misc
chain(fetch.call("u"), upload.step(5))  # error: arg-type
ring.step()  # error: arg-type
reveal_type(group(fetch.call(p) for p in "abc").then(merge.step("x")).enqueue().result())  # reveals: int
reveal_type(group(fetch.call(p) for p in "abc").enqueue().result())  # reveals: list[bytes]
reveal_type(group(fetch.call(p) for p in "abc").then(ring.call()))  # reveals: jobs_core.flows.work.Chain[None]
group(fetch.call(p) for p in "abc").then(resize.step(5))  # error: arg-type
reveal_type(chain(group([fetch.call("a"), fetch.call("b")]), merge.step("x")).enqueue().result())  # reveals: int
reveal_type(chain(fetch.call("u"), group([resize.step(5), resize.step(6)]), merge.step("x")).enqueue().result())  # reveals: int
reveal_type(group([chain(fetch.call("a"), resize.step(5))]).enqueue().result())  # reveals: list[bytes]
eight = chain(
    fetch.call("u"), resize.step(5), resize.step(4), ring.call(), fetch.call("v"), resize.step(1), resize.step(1), upload.step()
)
reveal_type(eight.enqueue().result())  # reveals: float


@job
async def member() -> None:
    own = current_job().flow
    if own is not None:
        reveal_type(own.add(charge.call(5)).result)  # reveals: str
    reveal_type(await (await chain(fetch.call("u"), upload.step()).aenqueue()).aresult())  # reveals: float
