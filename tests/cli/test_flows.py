"""Flows on the command line. The backend is a memory backend that the test and the commands share."""

import json
import re

import pytest
from msgspec.structs import replace

from jobs_core import App, Flow, ended, group
from jobs_core.app import set_current_app
from jobs_core.backends.base import Answer, Operable, Outcome, Outgoing, Settlement, State
from jobs_core.backends.flows import After, FlowStatus, Member, MemberStatus
from jobs_core.backends.memory import MemoryBackend, forget
from jobs_core.backends.sqlite import SqliteBackend
from jobs_core.cli.exits import Exit
from jobs_core.ids import new_id, new_token
from jobs_core.loaders.base import add_to_path
from jobs_core.operating.flow_tree import INDENT, MOST_BESIDE, MOST_DEEP, held_up, tree
from jobs_core.plugins import Plugins

from ..support.inprocess import as_it_was

TASKS = """
from jobs_core import job

@job(store_result=True)
def charge(order: int) -> str: ...

@job
def send(order: int, receipt: str): ...

@job
def tell(text: str): ...
"""


class Shared(MemoryBackend):
    """A memory backend that commands accept although other processes cannot see it."""

    features = MemoryBackend.features | {"multiprocess"}


@pytest.fixture
def shop(project, monkeypatch):
    """A flow of an order on a backend that commands share, and a function that ends the next job."""
    (project.root / "tasks.py").write_text(TASKS)
    url = f"memory://{new_token()}"
    project.configure("", backend=f'backend = "{url}"')
    app = project.app()
    made = Shared(url, app.backend_options())
    made.open("worker")
    monkeypatch.setattr(App, "_make_backend", lambda self, clock: Unclosed(made))
    with as_it_was():
        add_to_path(project.root)
        set_current_app(app)
        yield Shop(made)
    forget(url)


class Unclosed:
    """The shared backend, which a command's end does not close."""

    def __init__(self, backend):
        self._backend = backend

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def open(self, owner):
        pass

    def close(self):
        pass


class Shop:
    def __init__(self, backend):
        import tasks

        self.backend = backend
        with Flow("order 7") as flow:
            self.paid = flow.add(tasks.charge.call(7))
            self.sent = flow.add(tasks.send.call(7, self.paid.result))
            flow.add(group(tasks.tell.call(text) for text in "abc"), after=ended(self.paid), stage="news")
            self.last = flow.add(tasks.tell.call("over"), after=flow.all, when="failed")
        self.flow = flow

    def end(self, outcome=Outcome.DONE, **fields):
        """End the next ready job, and return its id."""
        (delivery,) = self.backend.reserve(["default"], 1, new_token())
        result = b'{"value":"x"}' if outcome is Outcome.DONE else None
        settlement = Settlement(delivery.id, delivery.token, outcome, result=result, result_ttl=60.0, **fields)
        assert self.backend.settle([settlement], new_token()) == [Answer.SETTLED]
        return delivery.id


def test_flows_lists_progress(shop, project):
    (flow,) = json.loads(project.here("flows", "--json"))
    assert (flow["id"], flow["name"], flow["state"], flow["total"], flow["waiting"], flow["active"]) == (
        shop.flow.id, "order 7", "running", 6, 5, 1,
    )  # fmt: skip
    assert re.search(rf"{shop.flow.id}\s+order 7\s+running\s+6\s+5\s+1\s+0\s+0\s+0", project.here("flows"))
    assert project.here("flows", "--limit", "1").count("order") == 1


def test_flow_show_is_a_tree_with_what_holds_it_up(shop, project):
    said = project.here("flow", "show", shop.flow.id)
    assert "running; of 6 members, 5 waiting, 1 in work" in said
    assert f"in work: 1 ready, such as tasks.charge: `jobsctl why {shop.paid.id}`" in said
    assert f"\ntasks.charge {shop.paid.id}  ready\n├─ tasks.send {shop.sent.id}  waiting\n└─ stage news: 3 waiting\n" in said
    assert f"\nwhen all others have ended\n└─ tasks.tell {shop.last.id}  waiting, when failed\n" in said
    shop.end(Outcome.DEAD, reason="failed", error=b'{"at":1,"attempt":1,"type":"E","message":"no card","traceback":""}')
    said = project.here("flow", "show", shop.flow.id[:13])
    assert f"- tasks.charge {shop.paid.id} is dead (failed): `jobsctl show {shop.paid.id}` has its errors" in said
    assert f"1 member waits for them: `jobsctl flow retry {shop.flow.id}` runs the dead again" in said
    assert f"✗ tasks.charge {shop.paid.id}  failed" in said
    assert f"tasks.send {shop.sent.id}  waiting, stuck" in said
    shown = json.loads(project.here("flow", "show", shop.flow.id, "--json"))
    assert shown["state"] == "failed"
    assert [member["label"] for member in shown["members"]] == ["tasks.charge", "tasks.send", *["tasks.tell"] * 4]
    assert "… and 4 more members (--limit)" in project.here("flow", "show", shop.flow.id, "--limit", "2")


def test_what_a_flow_refused_is_told_and_not_retried(shop, project):
    place = Member(shop.flow.id, "", (After("nowhere", "stage"),), label="tasks.tell")
    refused = Outgoing(new_id(), "default", b"{}", member=place)
    needs = Outgoing(new_id(), "default", b"{}", member=Member(shop.flow.id, "", (After(refused.id),)))
    shop.end(followups=(refused, needs))
    said = project.here("flow", "show", shop.flow.id)
    assert "which has no members yet" in said
    assert f"drop the dead letter, which cancels what needs it: `jobsctl dead drop {refused.id}`" in said
    assert "flow retry" not in said
    assert f"failed; `jobsctl flow show {shop.flow.id}` says why" in project.here(
        "flow", "retry", shop.flow.id, code=Exit.FAILED
    )
    assert "cannot be retried, because its flow refused it: enqueue the job anew; " in project.here(
        "dead", "retry", refused.id, code=1
    )
    assert "its flow refused it, so it cannot be retried" in project.here("why", refused.id)
    assert "1 dead letter deleted" in project.here("dead", "drop", refused.id, "--yes")
    assert shop.backend.get(needs.id).state is State.CANCELLED


def test_a_member_that_has_expired_is_not_said_to_run_again(shop, project):
    shop.end(Outcome.EXPIRED, reason="expired", error=b"{}")
    advice = "it would expire again at once: enqueue the job anew, and drop the dead letter"
    said = project.here("flow", "show", shop.flow.id)
    assert f"{advice}, which cancels what needs it: `jobsctl dead drop {shop.paid.id}`" in said
    assert "flow retry" not in said
    said = project.here("why", shop.paid.id)
    assert f"{advice} (`jobsctl dead drop {shop.paid.id}`)" in said
    assert "runs it again" not in said


def test_what_has_expired_is_not_retried(shop, project):
    shop.end(Outcome.EXPIRED, reason="expired", error=b"{}")
    because = "expired: a retry does not extend its time, so it would expire again at once: enqueue the job anew"
    assert f"1 dead member has {because}" in project.here("flow", "retry", shop.flow.id, code=Exit.FAILED)
    for chosen in ([shop.paid.id], ["--topic", "default", "--yes"], ["--job", "tasks.charge", "--yes"]):
        said = project.here("dead", "retry", *chosen, code=Exit.FAILED)
        assert said.startswith("0 jobs are ready again\n")
        assert f"jobs: {shop.paid.id} was not retried: it has {because}" in said
    assert shop.backend.get(shop.paid.id).state is State.DEAD
    shop.end(Outcome.DEAD, reason="failed", error=b"{}")
    said = project.here("flow", "retry", shop.flow.id, code=Exit.FAILED)
    assert said.startswith("1 member requeued\n"), "the others are retried"
    assert f"1 dead member has {because}" in said
    assert "deleted" in project.here("dead", "drop", shop.paid.id, "--yes")
    assert shop.backend.get(shop.sent.id).reason == "a member that it waited for was cancelled or deleted"


def test_flow_retry_runs_the_dead_again_and_flow_cancel_ends_the_rest(shop, project):
    shop.end(Outcome.DEAD, reason="failed", error=b"{}")
    assert project.here("flow", "retry", shop.flow.id) == "1 member requeued\n"
    assert "no dead member that can be retried: it is running" in project.here("flow", "retry", shop.flow.id, code=Exit.FAILED)
    assert project.here("flow", "cancel", shop.flow.id) == f"{shop.flow.id} cancelled\n"
    assert shop.flow.handle.status() == "cancelled"
    assert shop.backend.reserve(["default"], 9, "none is left") == []
    assert "has ended: it is cancelled" in project.here("flow", "cancel", shop.flow.id, code=Exit.FAILED)


def test_flow_commands_say_which_flow_there_is_not(shop, project):
    for command in ("show", "cancel", "retry"):
        assert "unknown flow 0199: it was never sent" in project.here("flow", command, "0199", code=Exit.FAILED)
        assert f"is a job of flow {shop.flow.id}: `jobsctl flow show" in project.here(
            "flow", command, shop.sent.id, code=Exit.FAILED
        )


PLUGIN = """
@hookimpl
def jobs_queue_backends():
    return {"theirs": print}
"""


def test_commands_that_find_nothing_do_not_blame_a_plugin_whose_backend_it_is(shop, project, monkeypatch, discover):
    plugins = discover(theirs=PLUGIN)
    provider = plugins.provider("jobs_queue_backends", "theirs")
    assert provider is not None
    monkeypatch.setattr(Plugins, "provider", lambda self, hook, name: provider)
    for line in (
        ["flow", "show", "nonsense"],
        ["flow", "cancel", "nonsense"],
        ["flow", "retry", "nonsense"],
        ["dead", "show", "nonsense"],
        ["show", "nonsense"],
        ["why", "nonsense"],
    ):
        (said,) = project.here(*line, code=Exit.FAILED).splitlines()
        assert "unknown" in said
    monkeypatch.setattr(Shared, "features", Shared.features - {"lookup"})
    (said,) = project.here("dead", "show", "nonsense", code=Exit.FAILED).splitlines()
    assert "is not among the" in said


def test_flow_show_of_a_member_that_has_ended_says_that_it_is_a_job(shop, project):
    shop.end()
    said = project.here("flow", "show", shop.paid.id, code=Exit.FAILED)
    assert f"{shop.paid.id} is a job" in said
    assert "unknown flow" not in said
    record = shop.backend.get(shop.paid.id)
    shop.backend.get = lambda job_id: replace(record, member=None)
    said = project.here("flow", "show", shop.paid.id, code=Exit.FAILED)
    assert f"{shop.paid.id} is a job, not a flow" in said
    assert f"`jobsctl show {shop.paid.id}` shows it" in said


def test_flow_show_names_the_dead_of_a_flow_that_is_larger_than_the_limit(shop, project):
    import tasks

    with Flow("hidden") as flow:
        start = flow.add(tasks.charge.using(topic="large").call(1))
        for number in range(1500):
            flow.add(tasks.tell.call(str(number)), after=start)
        dead = flow.add(tasks.charge.using(topic="dies").call(2))
        late = flow.add(tasks.tell.call("late"), after=dead)
    (delivery,) = shop.backend.reserve(["dies"], 1, new_token())
    settlement = Settlement(delivery.id, delivery.token, Outcome.DEAD, reason="no card", error=b"{}")
    assert shop.backend.settle([settlement], new_token()) == [Answer.SETTLED]
    said = project.here("flow", "show", flow.id)
    assert f"tasks.charge {dead.id} is dead (no card)" in said
    assert f"\n✗ tasks.charge {dead.id}  no card\n" in said
    assert "… 178 more of the 200 read: 178 waiting" in said
    assert "… and 1,303 more members (--limit)" in said
    assert f"in work: 1 (of the 200 members read, 1 ready), such as tasks.charge: `jobsctl why {start.id}`" in said
    assert len(json.loads(project.here("flow", "show", flow.id, "--json"))["members"]) == 200
    everything = json.loads(project.here("flow", "show", flow.id, "--limit", "3000", "--json"))["members"]
    assert [len(everything), everything[-1]["id"], everything[-1]["stuck"]] == [1503, late.id, True]
    assert "--limit" not in project.here("flow", "show", flow.id, "--limit", "3000")


@pytest.mark.parametrize("line", ["show", "why", "follow", "cancel", "result"])
@pytest.mark.parametrize("length", [8, 36])
def test_commands_for_jobs_point_from_a_flow_to_flow_show(shop, project, line, length):
    given = shop.flow.id[:length]
    with_flow_alone(shop)
    said = project.here(line, given, code=Exit.FAILED)
    assert f"{given} is a flow, not a job: `jobsctl flow show {shop.flow.id}` shows it and its jobs" in said
    assert "unknown" not in said
    if line == "cancel":
        assert f"`jobsctl flow cancel {given}` cancels it" in said
        assert shop.flow.handle.status() == "running"


def with_flow_alone(shop):
    """Have no job whose id begins as that of the flow does: ids that are made at once are alike."""
    shop.backend.find_ids = lambda text, most: []


def test_dead_letters_of_a_cancelled_flow_say_why_they_are_not_retried(shop, project):
    dead = shop.end(Outcome.DEAD, reason="failed", error=b"{}")
    shop.flow.handle.cancel()
    held = f"cannot be retried, because its flow {shop.flow.id} was cancelled"
    assert f"its flow was cancelled, so it cannot run again: `jobsctl dead drop {dead}` deletes it" in project.here("why", dead)
    said = project.here("dead", "retry", dead, code=Exit.FAILED)
    assert said == f"0 jobs are ready again\njobs: {dead} {held}; `jobsctl dead drop {dead}` deletes it\n"
    assert project.here("dead", "retry", "--topic", "default", "--yes") == (
        f"0 jobs are ready again\njobs: 1 dead letter {held}\n"
    )
    assert project.here("dead", "drop", dead, "--yes") == "1 dead letter deleted\n"


def test_why_names_what_a_member_waits_for_and_its_state(shop, project):
    said = project.here("why", shop.sent.id)
    assert (
        f"it is a member of flow {shop.flow.id} order 7, and waits until these are done: tasks.charge {shop.paid.id} (ready)"
        in said
    )
    assert f"`jobsctl flow show {shop.flow.id}` shows the flow" in said
    assert "dead letters" not in said  # the null in place of the result is no wrong argument
    assert "have ended, one of them not done: all members that do not wait for all" in project.here("why", shop.last.id)
    shop.end(Outcome.DEAD, reason="failed", error=b"{}")
    assert f"tasks.charge {shop.paid.id} (dead)" in project.here("why", shop.sent.id)
    assert f"the flow has 1 dead member: `jobsctl flow retry {shop.flow.id}`" in project.here("why", shop.sent.id)


def test_list_show_and_topics_know_waiting_jobs(shop, project):
    listed = json.loads(project.here("list", "default", "--state", "waiting", "--json"))
    assert len(listed) == 5
    assert shop.sent.id in project.here("list", "default", "--state", "waiting")
    shown = json.loads(project.here("show", shop.sent.id, "--json"))
    assert (shown["state"], shown["flow"], shown["waiting_for"]) == ("waiting", shop.flow.id, [shop.paid.id])
    assert json.loads(project.here("topics", "--json"))["default"]["waiting"] == 5
    assert re.search(r"default\s+1\s+5\s+0\s+0\s+0", project.here("topics"))
    assert project.here("purge", "default", "--yes").endswith("6 jobs deleted\n")


def test_waiting_means_the_same_jobs_to_list_and_to_purge(shop, project):
    assert len(json.loads(project.here("list", "default", "--state", "waiting", "--json"))) == 5
    assert project.here("purge", "default", "--state", "waiting", "--yes").endswith("5 jobs deleted\n")
    counts = json.loads(project.here("topics", "--json"))["default"]
    assert (counts["ready"], counts["waiting"]) == (1, 0)


def test_backends_without_flows_say_so(project, monkeypatch):
    monkeypatch.setattr(SqliteBackend, "features", SqliteBackend.features - {"flows"})
    for call in ("flow", "flows"):
        monkeypatch.setattr(SqliteBackend, call, getattr(Operable, call))
    for line in (
        ["flows"],
        ["flow", "show", "0198"],
        ["list", "default", "--state", "waiting"],
        ["purge", "default", "--state", "waiting", "--yes"],
    ):
        assert "does not support flows" in project.here(*line, code=Exit.FAILED)


# -- the tree ----------------------------------------------------------------------------------------


def test_the_tree_of_a_large_flow_is_bounded_and_shows_what_has_not_ended():
    members = [MemberStatus(f"m{n}", "done" if n % 100 else "dead", "fetch", stage="all") for n in range(1000)]
    lines = list(tree([*members, MemberStatus("last", "waiting", "merge", after=(After("all", "stage"),))]))
    assert len(lines) == MOST_BESIDE + 2
    assert lines[0] == "stage all: 10 dead, 990 done"
    assert sum("✗ fetch" in line for line in lines) == 10
    assert lines[-1] == "└─ … 981 more: 981 done"


def test_the_numbers_of_a_flow_that_was_read_in_part_do_not_contradict_its_status():
    status = FlowStatus("f", "failed", total=9000, waiting=5002, active=1498, dead=2500)
    read = [
        *(MemberStatus(f"d{n}", "dead", "a", stage="x") for n in range(100)),
        *(MemberStatus(f"r{n}", "reserved", "b", stage="x") for n in range(60)),
        *(MemberStatus(f"s{n}", "waiting", "c", stuck=True) for n in range(40)),
    ]
    said = list(held_up(status, read))
    assert "2,495 more members are dead" in said
    assert any(line.startswith("at least 40 members wait for them: ") for line in said)
    assert "in work: 1,498 (of the 200 members read, 60 reserved), such as b: `jobsctl why r0`" in said
    assert "2,500 members are dead" in list(held_up(status, read[100:]))
    lines = list(tree(read, whole=False))
    assert lines[0] == "stage x: 100 dead, 60 reserved of the 200 read"
    assert "└─ … 140 more of the 200 read: 80 dead, 60 reserved" in lines


def test_the_tree_of_a_chain_of_thousands_is_as_deep_as_it_is_long_and_no_wider_than_a_screen():
    links = (MemberStatus(f"m{n}", "waiting", "a", after=(After(f"m{n - 1}"),) if n else ()) for n in range(5000))
    lines = list(tree(list(links)))
    assert len(lines) == 5000
    assert lines[2] == "   └─ a m2  waiting"
    assert max(map(len, lines)) < INDENT * (MOST_DEEP + 1) + 40


def test_members_that_the_finale_adds_stand_with_the_finale():
    last = MemberStatus("last", "reserved", "a", finale=True, after=(After("*", "all"),))
    added = [MemberStatus("one", "ready", "b", finale=True), MemberStatus("two", "ready", "b", stage="s", finale=True)]
    assert list(tree([MemberStatus("body", "done", "a"), last, *added])) == [
        "✓ a body",
        "when all others have ended",
        "├─ a last  reserved",
        "├─ b one  ready",
        "└─ stage s: 1 ready",
        "   └─ b two  ready",
    ]


def test_control_characters_of_labels_and_reasons_do_not_reach_the_terminal(shop, project):
    members = [MemberStatus("m", "dead", "a", reason="x\x1b[2Jy\nz")]
    assert "\n" not in "".join(tree(members))
    status = FlowStatus("f", "failed", total=1, dead=1)
    assert "\n" not in "".join(held_up(status, members))
