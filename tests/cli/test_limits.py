"""Limits and fair topics on the command line: on a stand-in with the states that a test gives it, and on real backends."""

import contextlib
import json
import re

import pytest

from jobs_core import App
from jobs_core.backends.base import Answer, Counts, JobRecord, Outcome, Outgoing, Settlement, State
from jobs_core.backends.limits import Limit, LimitState, Lines
from jobs_core.backends.memory import MemoryBackend
from jobs_core.cli import output
from jobs_core.ids import new_token
from jobs_core.message import encode, new_message
from jobs_core.testing.services.redis import RedisServer

TASKS = """
from jobs_core import job

@job(limits=("stripe", "stripe:{account}"))
def charge(account): ...

@job(topic="mail", key="{account}")
def mail(account): ...
"""


class Stand(MemoryBackend):
    """A backend whose limits, counts and jobs are what the test says."""

    features = MemoryBackend.features | {"limits", "fairness", "multiprocess"}
    states: tuple[LimitState, ...] = ()
    keys: tuple[tuple[str, int], ...] = ()
    records: tuple[JobRecord, ...] = ()
    reserved: tuple[JobRecord, ...] = ()

    def __init__(self, *args):
        super().__init__(*args)
        self.overrides: list[object] = []

    def define_limits(self, limits, topics):
        self.overrides.append(dict(limits))

    def limits(self, most, names=()):
        return [state for state in self.states if not names or state.limit.partition(":")[0] in names][:most]

    def override_limit(self, limit, definition):
        self.overrides.append((limit, definition))

    def lines(self, topic, most):
        return list(self.keys)[:most]

    def topics(self):
        return ["default", "mail"]

    def counts(self, topics):
        return {topic: Counts(ready=1, limited=len(self.records) if topic == "default" else 0) for topic in topics}

    def browse(self, topic, state, limit, offset=0):
        found = {State.LIMITED: self.records, State.RESERVED: self.reserved}.get(state, ())
        return [record for record in found if record.topic == topic][offset : offset + limit]

    def get(self, job_id):
        return next((record for record in self.records if record.id == job_id), None)


@pytest.fixture
def stand(project, monkeypatch):
    (project.root / "tasks.py").write_text(TASKS)
    project.configure(
        "topics.mail = {fair = true, max_per_key = 2}\npools.default.topics = ['default', 'mail']\n"
        "[limits.stripe]\nconcurrency = 5\nrate = '10/m'\n",
        backend='backend = "memory://stand"',
    )
    made = Stand("memory://stand", project.app().backend_options())
    monkeypatch.setattr(App, "_make_backend", lambda self, clock: made)
    return made


STRIPE = Limit(5, 6.0, 1)
FULL = LimitState("stripe:acme", used=5, waiting=7, definition=STRIPE)


def record(number, **fields):
    message = new_message("tasks.charge", "default", ["acme"], {}, id=f"job-{number}")
    return JobRecord(
        message.id, "default", State.LIMITED, encode(message), limits=("stripe", "stripe:acme"), blocked_by="stripe:acme",
        pushed_at=1000.0, broker_now=1001.0, **fields,
    )  # fmt: skip


# -- jobsctl limits ----------------------------------------------------------------------------------


STATES = {
    "full": (FULL, r"stripe:acme\s+5\s+5\s+10/m\s+7\s+full"),
    "closed by its definition": (LimitState("a", definition=Limit(0)), r"a\s+0\s+0\s+0\s+closed"),
    "closed by a job": (
        LimitState("a", definition=Limit(5), closed_for=29.5),
        r"closed for 30s by a job \(`jobsctl limits reset a` opens it",
    ),
    "in debt": (LimitState("a", definition=Limit(None, 1.0, 20), opens_in=0.55), r"a\s+0\s+1/s burst 20\s+0\s+opens in 600ms"),
    "not defined": (LimitState("a", used=3), r"a\s+3\s+0"),
    "overridden": (LimitState("a", definition=Limit(9), overridden=True), r"a\s+0\s+9\s+0\s+overridden"),
}


@pytest.mark.parametrize(("state", "row"), STATES.values(), ids=STATES)
def test_limits_shows_use_bounds_and_what_holds_jobs_back(stand, project, state, row):
    stand.states = (state,)
    assert re.search(row, project.here("limits"))
    assert json.loads(project.here("limits", "--json"))[0]["limit"] == state.limit


def test_limits_selects_a_name_or_a_value(stand, project):
    stand.states = (LimitState("stripe"), FULL, LimitState("other"))
    assert [each["limit"] for each in json.loads(project.here("limits", "stripe", "--json"))] == ["stripe", "stripe:acme"]
    assert [each["limit"] for each in json.loads(project.here("limits", "stripe:acme", "--json"))] == ["stripe:acme"]
    assert project.here("limits", "nobody", "--json") == "[]\n"
    definition = json.loads(project.here("limits", "stripe:acme", "--json"))[0]["definition"]
    assert definition == {"concurrency": 5, "burst": 1, "rate": "10/m"}


SET = {
    "one part, the others stay": (["stripe", "--concurrency", "10"], Limit(10, 6.0, 1)),
    "the rate": (["stripe", "--rate", "100/s", "--burst", "20"], Limit(5, 0.01, 20)),
    "a fast rate, with its usual burst": (["stripe", "--rate", "500/s"], Limit(5, 0.002, 10)),
    "no rate": (["stripe", "--rate", "none"], Limit(5, None, 1)),
    "no bound": (["stripe", "--concurrency", "none"], Limit(None, 6.0, 1)),
    "closed": (["stripe:acme", "--concurrency", "0"], Limit(0, 6.0, 1)),
    "a name that nobody defines": (["fresh", "--concurrency", "1"], Limit(1, None, 1)),
}


@pytest.mark.parametrize(("arguments", "definition"), SET.values(), ids=SET)
def test_limits_set_overrides_what_it_names_and_keeps_the_rest(stand, project, arguments, definition):
    stand.states = (LimitState("stripe", definition=STRIPE),)
    assert f"until `jobsctl limits reset {arguments[0]}`" in project.here("limits", "set", *arguments)
    assert stand.overrides == [(arguments[0], definition)]


def test_limits_set_warns_of_a_name_that_is_probably_a_typo(stand, project):
    assert "limit strpe is not defined here, and not in use; did you mean stripe?" in project.here(
        "limits", "set", "strpe", "--concurrency", "1"
    )


def test_limits_set_warns_of_an_unknown_name_each_time_and_of_braces(stand, project):
    assert "limit nosuch is not defined here, and not in use" in project.here("limits", "set", "nosuch", "--concurrency", "3")
    stand.states = (LimitState("nosuch", definition=Limit(3), overridden=True),)
    assert "limit nosuch is not defined here, and not in use" in project.here("limits", "set", "nosuch", "--concurrency", "3")
    stand.states = (LimitState("nosuch:a", used=1, overridden=True),)
    assert "not in use" not in project.here("limits", "set", "nosuch", "--concurrency", "3")
    text = project.here("limits", "set", "stripe:{account}", "--concurrency", "3")
    assert "braces are not replaced in stripe:{account}: `jobsctl limits set stripe` sets each of its values" in text


def test_the_row_of_a_name_with_values_says_that_it_is_not_their_sum(stand, project):
    stand.states = (LimitState("stripe", definition=STRIPE), FULL, LimitState("other", definition=STRIPE))
    text = project.here("limits")
    assert re.search(r"stripe\s+0\s+5\s.*for each value", text)
    assert text.count("for each value") == 1


def test_limits_without_a_worker_so_far_names_those_of_the_configuration(stand, project, monkeypatch):
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    for arguments in ([], ["stripe"]):
        assert "stripe is defined in the configuration, no worker has started yet" in project.here("limits", *arguments)
    assert "configuration" not in project.here("limits", "other")


@pytest.mark.parametrize(
    "arguments",
    [["stripe"], ["no limit", "--concurrency", "1"], ["a:", "--concurrency", "1"], ["a", "--concurrency", "-1"],
     ["a", "--rate", "fast"], ["a", "--rate", "0/s"], ["a", "--burst", "0"], ["a", "--burst", "5"]],
)  # fmt: skip
def test_limits_set_refuses_what_limits_nothing(stand, project, arguments):
    project.here("limits", "set", *arguments, code=2)
    assert stand.overrides == []


def test_limits_reset_ends_an_override_and_may_remove_a_definition(stand, project):
    assert "stripe: 5 at once, 10/m" in project.here("limits", "reset", "stripe")
    said = project.here("limits", "reset", "old", "--definition")
    assert "old: not limited" in said
    assert "not in use" not in said
    assert stand.overrides == [("stripe", None), ("old", None), {"old": Limit()}]
    said = project.here("limits", "reset", "strpe")
    assert "jobs: limit strpe is not defined here, and not in use; did you mean stripe?" in said
    project.here("limits", "reset", "stripe", "--definition", code=2)
    project.here("limits", "reset", "old:value", "--definition", code=2)


def test_a_backend_without_limits_says_so(stand, project, monkeypatch):
    plain = type("Plain", (MemoryBackend,), {"features": Stand.features - {"limits", "fairness"}})
    for name in ("limits", "override_limit"):
        monkeypatch.setattr(plain, name, lambda self, *rest, **named: self._raise(), raising=False)
    plain._raise = lambda self: (_ for _ in ()).throw(self._lacks("limits"))
    monkeypatch.setattr(App, "_make_backend", lambda self, clock: plain("memory://stand", self.backend_options(clock)))
    for command in (["limits"], ["limits", "set", "a", "--concurrency", "1"], ["list", "default", "--state", "limited"]):
        assert "memory:// does not support limits" in project.here(*command, code=1)


# -- topics, list, show, why ------------------------------------------------------------------------


def test_topics_has_a_column_for_limited_jobs_only_if_there_are_any(stand, project):
    assert "limited" not in project.here("topics")
    stand.records = (record(1), record(2))
    assert re.search(r"default\s+1\s+2\s+0\s+0\s+0", project.here("topics"))
    assert json.loads(project.here("topics", "--json"))["default"]["limited"] == 2


def test_topics_of_a_name_lists_the_deepest_keys(stand, project):
    stand.keys = (("acme", 9), ("", 4), *((f"k{n}", 1) for n in range(20)))
    text = project.here("topics", "mail")
    assert re.search(r"acme\s+9\n(.*\s+)*?\(none\)\s+4", text)
    assert "k8" not in text
    assert json.loads(project.here("topics", "mail", "--json"))["mail"]["keys"][:2] == [["acme", 9], ["", 4]]
    assert "acme" not in project.here("topics")


def test_limited_jobs_are_listed_shown_and_explained(stand, project):
    stand.records = (record(1), record(2))
    stand.reserved = (
        JobRecord("job-0", "default", State.RESERVED, owner="host-1", limits=("stripe:acme",)),
        JobRecord("job-9", "default", State.RESERVED, owner="host-1", limits=("other",)),
    )
    stand.states = (FULL, LimitState("stripe", used=5, definition=Limit(9)))
    assert "job-1" in project.here("list", "default", "--state", "limited")
    assert {"blocked_by": "stripe:acme", "limits": ["stripe", "stripe:acme"]}.items() <= json.loads(
        project.here("show", "job-1", "--json")
    ).items()
    text = project.here("why", "job-2")
    assert "it waits for limit stripe:acme: full, 5 of 5 used, 7 jobs waiting under it" in text
    assert "its slots are held by job-0 (worker host-1)\n" in text
    assert "it is limited with 1 job ahead of it" in text
    assert "limit stripe:" not in text.replace("limit stripe:acme", "")


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (LimitState("stripe:acme", waiting=1, definition=STRIPE, opens_in=2.5), "opens in 2.5s, 0 of 5 used"),
        (LimitState("stripe:acme", waiting=1, definition=STRIPE, closed_for=20.0), "closed for 20s by a job"),
        (LimitState("stripe:acme", waiting=1, definition=Limit(0)), "closed, 0 of 0 used"),
        (LimitState("stripe:acme"), "it had no room when it was last checked"),
    ],
)
def test_why_says_what_a_limit_waits_for(stand, project, state, says):
    stand.records, stand.states = (record(1),), (state,)
    assert f"it waits for limit stripe:acme: {says}" in project.here("why", "job-1")


# -- check -------------------------------------------------------------------------------------------


CHECKS = {
    "nothing": ((LimitState("stripe", definition=STRIPE),), "", "limits .*stripe \\(5 at once, 10/m\\)"),
    "undefined": ((), "[limits.other]\nconcurrency = 1", "tasks.charge uses the limit stripe, which limits nothing: define it"),
    "unused": ((), "[limits.other]\nconcurrency = 1", r"\[limits.other\] is used by no job here"),
    "another definition": (
        (LimitState("stripe", definition=Limit(9)),), "[limits.stripe]\nconcurrency = 5",
        "limit stripe is 9 at once in the backend, and 5 at once here",
    ),
    "an override": (
        (LimitState("stripe", definition=Limit(9), overridden=True),), "[limits.stripe]\nconcurrency = 5",
        "limit stripe is overridden: 9 at once, until `jobsctl limits reset stripe`",
    ),
    "another application's": (
        (LimitState("old", definition=Limit(9)), LimitState("gone", definition=Limit())), "[limits.stripe]\nconcurrency = 5",
        "limit old is defined in the backend \\(9 at once\\), but not here",
    ),
    "another max_per_key": (
        (LimitState("key/mail:acme", 1, definition=Limit(2)),), "topics.mail = {fair = true, max_per_key = 5}",
        "topic mail has max_per_key = 2 in the backend, and max_per_key = 5 here: `jobsctl start` or `reload` writes this one",
    ),
    "max_per_key without fair": ((), "topics.mail.max_per_key = 5", "topics.mail.max_per_key has no effect"),
}  # fmt: skip


@pytest.mark.parametrize(("states", "configuration", "says"), CHECKS.values(), ids=CHECKS)
def test_check_reports_settings_without_effect_and_differences(stand, project, states, configuration, says):
    if configuration:
        project.configure(configuration, backend='backend = "memory://stand"')
    stand.states = states
    text = project.here("check", code=None)
    assert re.search(says, text), text
    assert "gone" not in text


WANTS = """
from jobs_core import Flow, job

@job(limits=("stripe", "stripe:{account}"))
def charge(account): ...
"""
COMPUTES = """
from jobs_core import job

def own(account): return "stripe"

@job(limits=own)
def charge(account): ...
"""
HAS = r" \(sqlite://, .*://\)"
LACKING = {
    "limits of a job": (WANTS, "", f"limits: tasks.charge cannot be enqueued with its limit stripe: .*{HAS}"),
    "limits of a function": (COMPUTES, "", f"limits: tasks.charge computes its limits: leave them out, .*{HAS}"),
    "defined limits": ("", "[limits.stripe]\nconcurrency = 1", f"limits: limits.stripe has no effect: remove it, .*{HAS}"),
    "a fair topic": (
        "", "topics.mail = {fair = true, max_per_key = 2}",
        f"fairness: jobs with a key cannot be enqueued while topics.mail.fair = true with max_per_key = 2: .*{HAS}",
    ),
    "flows": (WANTS, "", r"flows: what Flow of tasks sends is refused: let each job enqueue the next, or choose .* \(\w+://"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("url", "wanted"),
    [("amqp://127.0.0.1:1", wanted) for wanted in LACKING]
    + [("redis+cluster://127.0.0.1:1", wanted) for wanted in LACKING if wanted != "a fair topic"],
)
def test_check_says_what_the_backend_lacks_and_which_ones_have_it_even_if_it_does_not_answer(project, url, wanted):
    tasks, settings, says = LACKING[wanted]
    (project.root / "tasks.py").write_text(tasks)
    project.configure(settings, backend=f'backend = "{url}"')
    text = project.here("check", code=None)
    assert re.search(f"{re.escape(url.partition(':')[0])}:// does not support {says}", text), text


def test_check_says_that_jobs_and_their_logs_are_not_kept(stand, project):
    stand.features = Stand.features - {"history", "notes"}
    project.configure(
        '[topics.mail]\nkeep_done = "1h"\n[topics.pay]\nkeep_done = "1h"\nkeep_logs = true',
        backend='backend = "memory://stand"',
    )
    text = project.here("check", code=None)
    assert "memory:// does not support history: topics.mail.keep_done, topics.pay.keep_done have no effect: remove it" in text
    assert "memory:// does not support notes: topics.pay.keep_logs has no effect: remove it" in text


def test_check_is_silent_about_features_that_nothing_uses(stand, project):
    stand.features = Stand.features - {"limits", "fairness", "flows"}
    (project.root / "tasks.py").write_text("from jobs_core import job\n\n@job\ndef plain(): ...\n")
    project.configure("", backend='backend = "memory://stand"')
    assert "does not support" not in project.here("check", code=None)


# -- the same commands on backends that keep what they are told --------------------------------------


@pytest.fixture(params=["sqlite", "redis"])
def stored(project, request, tmp_path):
    """A worker of a project whose limit `stripe` lets two jobs run at once; four jobs of two accounts wait for it."""
    (project.root / "tasks.py").write_text(TASKS)
    with contextlib.ExitStack() as stack:
        url = "sqlite:///queue.db"
        if request.param == "redis":
            url = f"redis://127.0.0.1:{stack.enter_context(RedisServer(tmp_path / 'redis')).port}/0"
        project.configure("[limits.stripe]\nconcurrency = 2\n", backend=f'backend = "{url}"')
        worker = project.app().new_backend()
        worker.open("host-1-worker")
        stack.callback(worker.close)
        worker.define_limits({"stripe": Limit(2)}, {})
        jobs = [
            Outgoing(message.id, "default", encode(message), limits=("stripe", f"stripe:{account}"))
            for account in ("acme", "acme", "umbrella", "umbrella")
            for message in (new_message("tasks.charge", "default", [account], {}),)
        ]
        assert not worker.push(jobs, new_token())
        worker.startable = 4
        held = worker.reserve(["default"], 4, new_token())
        assert len(held) == 2
        worker.reserve(["default"], 4, new_token())  # finds that the limit is full
        yield worker, held


def waiting(project):
    return [each["id"] for each in json.loads(project.here("list", "default", "--state", "limited", "--json"))]


@pytest.fixture(params=["sqlite", "redis"])
def fresh(project, request, tmp_path):
    """A project with a fair topic and a limit, which no worker has served yet."""
    (project.root / "tasks.py").write_text(TASKS)
    with contextlib.ExitStack() as stack:
        url = "sqlite:///queue.db"
        if request.param == "redis":
            url = f"redis://127.0.0.1:{stack.enter_context(RedisServer(tmp_path / 'redis')).port}/0"
        settings = "topics.mail.fair = true\n[limits.stripe]\nconcurrency = 2\n"
        project.configure(settings, backend=f'backend = "{url}"')
        backend = project.app().new_backend()
        stack.callback(backend.close)
        yield backend


def test_jobs_enqueued_after_setup_are_served_fairly_though_no_worker_had_started(fresh, project):
    assert "the backend is set up" in project.here("setup")
    fresh.open("host-1-worker")  # which defines nothing by itself
    fresh.push([Outgoing(f"{key}-{n}", "mail", b"{}", key=key) for key in ("large", "small") for n in range(9)], new_token())
    taken = fresh.reserve(["mail"], 4, new_token())
    assert sorted(one.id for one in taken) == ["large-0", "large-1", "small-0", "small-1"]


def test_check_compares_max_per_key_with_that_of_keys_in_use(fresh, project):
    fresh.open("host-1-worker")
    fresh.define_limits({"stripe": Limit(2)}, {"mail": Lines(fair=True, max_per_key=1)})
    fresh.push([Outgoing(f"large-{n}", "mail", b"{}", key="large") for n in range(2)], new_token())
    assert len(fresh.reserve(["mail"], 4, new_token())) == 1
    says = "topic mail has max_per_key = 1 in the backend, and no max_per_key here"
    assert says in project.here("check", code=None)
    project.here("setup")
    assert "max_per_key" not in project.here("check", code=None)


def test_use_of_a_stored_limit_and_the_jobs_that_wait_for_it_are_shown(stored, project):
    _, held = stored
    (stripe,) = [each for each in json.loads(project.here("limits", "--json")) if each["limit"] == "stripe"]
    assert (stripe["used"], stripe["waiting"], stripe["definition"]["concurrency"]) == (2, 2, 2)
    assert re.search(r"stripe\s+2\s+2\s+2\s+full", project.here("limits", "stripe"))
    assert json.loads(project.here("topics", "--json"))["default"]["limited"] == 2
    first = waiting(project)[0]
    assert json.loads(project.here("show", first, "--json"))["blocked_by"] == "stripe"
    text = project.here("why", first)
    assert "it waits for limit stripe: full, 2 of 2 used, 2 jobs waiting under it" in text
    assert all(each.id in text for each in held)
    assert "limit stripe is 2 at once" not in project.here("check", code=None)


def test_an_override_of_a_stored_limit_opens_it_at_once_until_it_is_reset(stored, project):
    worker, _ = stored
    project.here("limits", "set", "stripe", "--concurrency", "3")
    assert len(worker.reserve(["default"], 4, new_token())) == 1
    assert "limit stripe is overridden: 3 at once" in project.here("check", code=None)
    project.here("limits", "reset", "stripe")
    assert "overridden" not in project.here("limits")
    (stripe,) = [each for each in json.loads(project.here("limits", "stripe", "--json")) if each["limit"] == "stripe"]
    assert (stripe["used"], stripe["definition"]["concurrency"]) == (3, 2)


def test_a_stored_limit_that_a_job_has_closed_is_opened_by_a_reset_alone(stored, project):
    worker, held = stored
    closing = [Settlement(one.id, one.token, Outcome.DONE, close_limits=(("stripe:umbrella", 3600.0),)) for one in held]
    worker.settle(closing, new_token())
    assert worker.reserve(["default"], 4, new_token()) == []
    assert "`jobsctl limits reset stripe:umbrella` opens it" in project.here("why", waiting(project)[0])
    text = project.here("limits", "set", "stripe:umbrella", "--concurrency", "9")
    assert re.search(
        "a job has closed stripe:umbrella for (1h|59m.*): to open it, run `jobsctl limits reset stripe:umbrella`", text
    )
    assert worker.reserve(["default"], 4, new_token()) == []
    project.here("limits", "reset", "stripe")
    assert len(worker.reserve(["default"], 4, new_token())) == 2


def test_purge_deletes_limited_jobs_with_the_ready_ones_and_frees_no_slot_of_running_ones(stored, project):
    worker, held = stored
    assert "2 jobs deleted" in project.here("purge", "default", "--state", "ready", "--yes")
    assert waiting(project) == []
    (stripe,) = [each for each in json.loads(project.here("limits", "stripe", "--json")) if each["limit"] == "stripe"]
    assert (stripe["used"], stripe["waiting"]) == (2, 0)
    ends = [Settlement(each.id, each.token, Outcome.DONE) for each in held]
    assert worker.settle(ends, new_token()) == [Answer.SETTLED] * 2
    assert json.loads(project.here("limits", "--json"))[0]["used"] == 0


def test_purge_of_all_that_waits_deletes_limited_jobs_too(stored, project):
    assert "2 jobs deleted" in project.here("purge", "default", "--yes")
    assert waiting(project) == []
