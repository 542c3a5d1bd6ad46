"""What webhooks promise on every backend, with a real supervisor and a real receiver."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

from jobs_core import App, Flow, job, set_current_app
from jobs_core.backends.base import State
from jobs_core.operating.discarding import discard
from jobs_core.registry import Registry

from ..unit.test_webhooks import SECRET, verified
from .inprocess import as_it_was
from .project import Project, until
from .receiver import Receiver
from .supervised import Supervised

TASKS = """
from jobs_core import job

@job(retries=0)
def note(text: str = "x", fails: bool = False):
    if fails:
        raise ValueError(text)
"""

SETTINGS = """
lease = "2s"
pools.default = {{ topics = ["default", "webhooks"] }}
alerts = {{ after = "0s", repeat = "1h" }}
topics.behind = {{ alert_above = 2, serve = false }}
[webhooks.crm]
url = "{url}/hook"
secret_file = "secret"
networks = ["127.0.0.0/8"]
events = ["done", "dead", "flow", "backlog"]
topics = ["default", "behind"]
retries = 1
{more}
"""


class Webhooked:
    """A project on a backend whose events go to a receiver."""

    def __init__(self, project: Project, receiver: Receiver, backend: str, more: str = "") -> None:
        self.project, self.receiver = project, receiver
        (project.root / "tasks.py").write_text(TASKS)
        (project.root / "secret").write_text(SECRET + "\n")
        project.configure(SETTINGS.format(url=receiver.url, more=more), backend=f'backend = "{backend}"')
        self.app: App = project.app()
        set_current_app(self.app)
        self.features = self.app.new_backend().features
        self._note = job(name="tasks.note", registry=Registry(), retries=0)(lambda text="x", fails=False: None)

    def push(self, fails: bool = False, topic: str = "default") -> str:
        return self.project.push("note", "no funds", fails, topic=topic)

    def flow(self, fails: bool) -> str:
        with Flow("order") as flow:
            flow.add(self._note.call())
            flow.add(self._note.call(fails=fails))
        return flow.id

    def told(self, kind: str) -> dict[str, set[str]]:
        """Return the ids of the events of a type by what they tell of."""
        found: dict[str, set[str]] = {}
        pairs = list(zip(self.receiver.headers, self.receiver.bodies, strict=False))
        for headers, body in pairs:
            if body["type"] == kind:
                about = body["data"].get("id") or body["data"]["topic"]
                found.setdefault(about, set()).add(headers["webhook-id"])
        return found

    def until_told(self, kind: str, *about: str) -> None:
        until(lambda: self.told(kind).keys() >= set(about))

    def is_known(self) -> bool:
        """Return whether a housekeeper has seen the receiver: from then on it is told of flows and letters."""
        return self.app.operate(lambda backend: backend.document("webhook", "crm")) is not None

    def discard(self, topic: str = "behind") -> list[str]:
        """Discard the ready jobs of a topic; return their ids."""

        def act(backend: Any) -> list[str]:
            ids = [record.id for record in backend.browse(topic, State.READY, 100)]
            assert discard(backend, ids, "a mistake") == len(ids)
            return ids

        return self.app.operate(act)

    def assert_good(self) -> None:
        """Check the signatures of all events, and that nothing was told under two ids by the housekeeper."""
        received = list(zip(self.receiver.headers, self.receiver.raw, strict=False))
        assert all(verified(SECRET, headers, raw) for headers, raw in received)
        for kind in ("flow.done", "flow.failed", "flow.cancelled"):
            assert all(len(ids) == 1 for ids in self.told(kind).values()), kind


@contextlib.contextmanager
def webhooked(project: Project, backend: str, more: str = "") -> Iterator[Webhooked]:
    """Make such a project."""
    receiver = Receiver()
    with as_it_was():
        try:
            yield Webhooked(project, receiver, backend, more)
        finally:
            project.close()
            receiver.close()


def assert_promises(shop: Webhooked) -> None:
    """Every event is told, signed, once under each id, though the receiver is busy, and housekeeper and workers are killed."""
    supervised = Supervised(shop.project)
    shop.receiver.busy = 2
    has_flows, has_groups = "flows" in shop.features, {"dead_groups", "documents"} <= shop.features
    if has_flows:
        until(shop.is_known)
    done, dead = [shop.push() for _ in range(10)], [shop.push(fails=True) for _ in range(3)]
    for _ in range(3):
        shop.push(topic="behind")
    if has_flows:
        good, bad = shop.flow(False), shop.flow(True)
    until(lambda: shop.receiver.bodies)
    state = supervised.until(lambda board: board.supervisor)
    for victim in (state.housekeeper_pid, *list(supervised.pids())[:1]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    shop.until_told("job.done", *done)
    shop.until_told("job.dead", *dead)
    shop.until_told("topic.backlog", "behind")
    if has_flows:
        shop.until_told("flow.done", good)
        shop.until_told("flow.failed", bad)
    if has_groups:
        discarded = shop.discard()
        shop.until_told("job.dead", *discarded)
        shop.until_told("topic.caught_up", "behind")
        reasons = {body["data"]["reason"] for body in shop.receiver.bodies if body["data"].get("id") in discarded}
        assert all(reason.startswith("discarded by ") and reason.endswith(": a mistake") for reason in reasons)
        assert all(len(ids) == 1 for about, ids in shop.told("job.dead").items() if about in discarded)
    shop.assert_good()
    assert supervised.stop() == 0


def assert_killed_between(shop: Webhooked) -> None:
    """Housekeepers that are killed after one push, and between reading and the next, lose nothing and tell nothing twice."""
    supervised = Supervised(shop.project, JOBS_FAILPOINT="webhook.read=kill@2")
    until(shop.is_known)
    for _ in range(3):
        shop.push(topic="behind")
    flow = shop.flow(False)
    shop.until_told("flow.done", flow)
    board = supervised.until(lambda board: board.supervisor and board.supervisor.housekeeper_pid and board.supervisor)
    ids = shop.discard()
    first = board.housekeeper_pid
    supervised.until(lambda board: board.supervisor is not None and board.supervisor.housekeeper_pid not in (0, first))
    supervised.stop()
    again = Supervised(shop.project)
    shop.until_told("job.dead", *ids)
    shop.until_told("flow.done", flow)
    assert again.stop() == 0
    shop.assert_good()
    assert all(len(found) == 1 for found in shop.told("job.dead").values())
    assert len([body for body in shop.receiver.bodies if body["type"] == "flow.done"]) == 1
