"""`jobsctl top` as an operator uses it: typed keys on a real terminal, real backends, a real supervisor."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import termios

import pytest

from jobs_core.backends.base import State
from jobs_core.testing.services.redis import RedisServer

from ..support.proxy import Proxy
from ..support.screen import Screen
from ..support.supervised import Supervised

POOLS = '[pools.default]\ntopics = ["default", "email"]\nworkers = 2\n[pools.slow]\ntopics = ["slow"]\nworkers = 1'


@pytest.fixture(params=["sqlite", "redis"])
def queue(request, project, tmp_path):
    """A project on this backend."""
    with contextlib.ExitStack() as stack:
        backend = "sqlite:///queue.db"
        if request.param == "redis":
            backend = f"redis://127.0.0.1:{stack.enter_context(RedisServer(tmp_path / 'redis')).port}"
        project.configure(POOLS, backend=f'backend = "{backend}"')
        yield project
        project.close()


@pytest.fixture
def top(request):
    """Start `jobsctl top` in a project, in a terminal of some size."""
    with contextlib.ExitStack() as stack:

        def start(project, **size):
            screen = Screen(project, **{"rows": 24, "columns": 80, **size})
            stack.callback(screen.close)
            return screen

        yield start


def counts(project, topic="default"):
    return project.app().operate(lambda backend: backend.counts([topic]))[topic]


def dead_letters(project, *texts):
    """Leave a dead letter of `tasks.fail` for each text."""
    project.push_many([("fail", (text,), {}) for text in texts])
    done = project.run("worker", "--drain", JOBS_POOLS__DEFAULT__TOPICS="default")
    assert len(project.dead()) >= len(texts), done.stdout


def to_state(screen, state):
    """Press s until the jobs in this state are listed."""
    shown = "ready"
    while shown != state:
        screen.press("s")
        screen.until(lambda before=shown: listed(screen) not in ("", before))
        shown = listed(screen)


def listed(screen):
    """Return the state whose jobs are listed; "" while the line is half drawn."""
    found = re.search(r"\[(\w+)[] ]", screen.lines[1])
    return found[1] if found else ""


# -- browse ----------------------------------------------------------------------------------------


def test_topics_jobs_and_details_are_reached_from_the_keyboard_without_a_supervisor(queue, top):
    ids = queue.push_many([("note", (f"text-{number}",), {}) for number in range(30)])
    screen = top(queue)
    screen.until("nothing is running here")
    screen.press("2")
    screen.until(lambda: re.search(r"› default +30 +0 +0 +0", screen.text))
    screen.press("enter")
    screen.until(ids[0])
    assert "default: 30 jobs   [ready]" in screen.text
    screen.press("down", "down", "enter")
    screen.until(f"job tasks.note {ids[2]} of topic default")
    screen.until("state      ready")
    screen.press("page down", "page down")
    screen.until("text-2")
    screen.press("escape", "escape")
    screen.until("topics by name")
    screen.press("q")
    assert screen.wait() == 0


def test_a_filter_finds_jobs_by_their_arguments_and_names(queue, top):
    ids = queue.push_many([("note", (f"text-{number}",), {}) for number in range(300)])
    screen = top(queue)
    screen.press("2")
    screen.until("› default")
    screen.press("enter")
    screen.until("the first 200; / finds others")
    screen.press("/")
    screen.until("text in the arguments, or job=")
    screen.type("text-299")
    screen.press("enter")
    screen.until("1 job, with text-299")
    screen.until(ids[299])
    screen.press("/")
    screen.type(" since=never")
    screen.press("enter")
    screen.until("✗ expected a time such as")
    screen.press("escape", "escape")
    screen.until("the first 200; / finds others")


def test_states_are_those_of_the_backend_and_each_is_listed(queue, top):
    queue.push("note", "later", delay=3600.0)
    screen = top(queue)
    screen.press("2")
    screen.until("› default")
    screen.press("enter")
    screen.until("no ready jobs in default; s shows the next state")
    to_state(screen, "scheduled")
    screen.until("tasks.note")
    assert "n run now" in screen.text


def test_dead_letters_are_grouped_by_what_went_wrong(queue, top):
    dead_letters(queue, "no address 1", "no address 2", "überhaupt 日本語")
    screen = top(queue)
    screen.press("3")
    screen.until("3 dead letters in 2 groups")
    screen.until(lambda: re.search(r"› +2  ValueError: no address", screen.text))  # the title comes first
    screen.press("down", "enter")
    screen.until(lambda: re.search("› tasks.fail .*überhaupt", screen.text))
    screen.press("enter")
    screen.until("state      dead")
    screen.press("page down", "page down", "page down")
    screen.until("raise ValueError(text)")


def test_300_topics_are_scrolled_and_filtered_at_80x24_and_at_200x60(project, top):
    project.push_many([("note", (), {"topic": f"topic-{number:03}"}) for number in range(300)])
    screen = top(project)
    screen.press("2")
    screen.until("› default")
    screen.type("\x1b[F")
    screen.until("› topic-299")
    assert "topic-270" not in screen.text
    screen.resize(60, 200)
    screen.until(lambda: "topic-260" in screen.text and len(screen.lines) == 60)
    screen.press("/")
    screen.type("ic-1")
    screen.press("enter")
    screen.until(lambda: "topic-1" in screen.text and "topic-299" not in screen.text)
    screen.press("escape")
    screen.until_gone("with 'ic-1'")
    assert "› topic-199" in screen.text  # what was chosen stays chosen
    screen.resize(10, 40)
    screen.until(lambda: screen.lines[0].startswith("jobs top") and screen.lines[9].endswith("q quit"))


def test_ids_of_applications_and_foreign_text_spoil_nothing(project, top):
    long = "-" + "x" * 400 + "end"
    project.push("note", "a\x1b[2Jb", id=long)
    screen = top(project)
    screen.press("2")
    screen.until("› default")
    screen.press("enter")
    screen.until("-xxxxxx")
    screen.press("enter")
    screen.until("state      ready")
    screen.press("page down", "page down", "page down")
    screen.until("end")
    screen.press("c")
    screen.until("Cancel 1 job")
    screen.press("y")
    screen.until("cancelled")
    assert counts(project).ready == 0


# -- act -------------------------------------------------------------------------------------------


def test_a_group_of_dead_letters_is_retried_after_a_question_that_says_how_many(queue, top):
    dead_letters(queue, "no address 1", "no address 2", "other")
    screen = top(queue)
    screen.press("3")
    screen.until("3 dead letters in 2 groups")
    screen.press("r")
    screen.until("Run 2 dead letters in group")
    assert "jobsctl dead retry --group" in screen.text
    screen.press("n")
    screen.until("✗ nothing was done")
    assert len(queue.dead()) == 3
    screen.press("r")
    screen.until("Run 2 dead letters in group")
    screen.press("y")
    screen.until("✓ 2 jobs are ready again")
    screen.until("1 dead letter in 1 group")
    assert counts(queue).ready == 2


def test_a_group_moves_to_another_topic_at_a_rate_in_the_background(queue, top):
    dead_letters(queue, "no address 1", "no address 2")
    screen = top(queue)
    screen.press("3")
    screen.until("2 dead letters in 1 group")
    screen.press("R", *"to=mail/x", "enter")
    screen.until("invalid topic name")
    screen.press(*["\x7f"] * 2, *" rate=10/s", "enter")
    screen.until("Run 2 dead letters in group")
    assert "in the background" in screen.text
    screen.press("y")
    screen.until("is started: 2 dead letters")
    [action] = json.loads(queue.here("dead", "actions", "--json"))
    assert (action["to"], action["rate"], action["total"]) == ("mail", 10.0, 2)


def test_a_large_group_shows_how_far_it_is_and_ends_with_its_result(project, top):
    dead_letters(project, *(f"no address {number}" for number in range(250)))
    screen = top(project)
    screen.press("3")
    screen.until("250 dead letters in 1 group")
    screen.press("x")
    screen.until("Delete 250 dead letters in group")
    screen.press("y")
    screen.until("✓ 250 dead letters deleted")
    screen.until("no dead letters")
    screen.press("m")
    screen.until("jobsctl dead drop --group")
    assert project.dead() == []


def test_single_dead_letters_are_retried_and_deleted(queue, top):
    dead_letters(queue, "one", "two")
    screen = top(queue)
    screen.press("2")
    screen.until("› default")
    screen.press("d")
    screen.until("default: 2 jobs")
    first, second = (record.id for record in queue.dead())
    screen.until(f"› tasks.fail  {first}")
    screen.press("r")
    screen.until(f"Run 1 dead letter again, tasks.fail {first} of topic default?"[:60])
    screen.press("y")
    screen.until("✓ 1 job is ready again")
    screen.until(f"› tasks.fail  {second}")
    screen.press("x")
    screen.until("Delete 1 dead letter for good")
    screen.press("y")
    screen.until("✓ 1 dead letter deleted")
    screen.until("no dead jobs in default")
    assert queue.dead() == []
    assert counts(queue).ready == 1


def test_a_topic_is_paused_and_resumed(queue, top):
    queue.push_many([("note", (), {}) for _ in range(3)])
    screen = top(queue)
    screen.press("2")
    screen.until("› default")
    screen.press("p")
    screen.until("Pause topic default on all machines?")
    assert "Its 3 ready jobs wait until it is resumed; the 0 jobs in flight continue." in screen.text
    assert "jobsctl pause default" in screen.text
    screen.press("y")
    screen.until("✓ default is paused")
    screen.until(lambda: screen.line_of("› default").endswith("paused"))
    assert queue.app().operate(lambda backend: backend.paused()) == {"default"}
    screen.press("p")
    screen.until("Resume topic default?")
    screen.press("y")
    screen.until("✓ default is no longer paused")
    assert queue.app().operate(lambda backend: backend.paused()) == frozenset()


def test_a_scheduled_job_runs_now_and_a_waiting_one_is_cancelled(queue, top):
    later = queue.push("note", "later", delay=3600.0)
    queue.push("note", "first")
    screen = top(queue)
    screen.press("2")
    screen.until("› default")
    screen.press("enter")
    screen.until("default: 1 job")
    screen.press("c")
    screen.until("Cancel 1 job, tasks.note")
    screen.press("y")
    screen.until("no ready jobs in default")
    to_state(screen, "scheduled")
    screen.until(later)
    screen.press("n")
    screen.until("Run 1 scheduled job now, tasks.note")
    screen.press("y")
    screen.until("✓ 1 job is ready again")
    assert counts(queue).ready == 1
    assert queue.app().operate(lambda backend: backend.get(later)).state is State.READY


def test_running_jobs_workers_pools_and_machines(queue, top):
    supervised = Supervised(queue)
    screen = top(queue, columns=120)
    screen.until("is serving")
    job = queue.push("doze", 600.0)
    screen.press("5")
    screen.until("tasks.doze")
    screen.press("/")
    screen.type("doze")
    screen.press("enter")
    screen.until(lambda: re.search(r"› .*tasks.doze", screen.text))
    screen.press("enter")
    screen.until("state      reserved")
    screen.press("c")
    screen.until("Cancel 1 job, tasks.doze")
    assert "It is running: its worker is told, and interrupts it." in screen.text
    screen.press("y")
    screen.until(f"{job} is running: it is told to stop"[:60])
    queue.until(lambda: counts(queue).reserved == 0)
    screen.press("escape", "escape", "t")
    screen.until("stack of worker")
    screen.press("4")
    screen.until(lambda: "[4 machines]" in screen.text and re.search(r"pool default +2/2", screen.text))
    screen.press("down", "s")
    screen.until("workers of pool default, now 2: ")
    screen.type("three\r")
    screen.until("✗ expected a number of workers")
    for _ in "three":
        screen.type("\x7f")
    screen.type("1\r")
    screen.until("Set pool default of machine")
    assert "It has 2 workers now, and at most 2 by its configuration." in screen.text
    screen.press("y")
    screen.until(lambda: re.search(r"pool default +1/1", screen.text) and ": done" in screen.text)
    screen.press("p")
    screen.until("Quiet pool default of machine")
    screen.press("y")
    screen.until(lambda: re.search(r"pool default +quiet", screen.text))
    screen.press("q")
    assert screen.wait() == 0
    assert supervised.process.stop() == 0


# -- trouble ---------------------------------------------------------------------------------------


def test_a_backend_that_is_down_is_said_and_its_return_is_noticed(project, tmp_path, top):
    with RedisServer(tmp_path / "redis") as server, Proxy(server.port) as proxy:
        project.configure(backend=f'backend = "redis://127.0.0.1:{proxy.port}"')
        project.push("note", "x")
        proxy.refuse()
        proxy.cut()
        screen = top(project)
        screen.press("2")
        screen.until(lambda: "! " in screen.text and "127.0.0.1" in screen.text)
        screen.press("3", "4", "2")  # the keys work meanwhile
        screen.until("[2 topics]")
        proxy.accept()
        screen.until(lambda: re.search(r"› default +1", screen.text))
        proxy.black_hole()
        screen.until(lambda: "! " in screen.text and "this was read" in screen.text)
        assert re.search(r"› default +1", screen.text)  # the last reading stays
        proxy.heal()
        screen.until_gone("this was read")
        screen.press("p")
        screen.until("Pause topic default")
        screen.press("y")
        screen.until("✓ default is paused")
        screen.press("q")
        assert screen.wait() == 0
    assert b"Traceback" not in screen.raw


def test_keys_work_again_after_ctrl_z_and_fg(project, top):
    screen = top(project)
    screen.until("[1 now]")
    screen.process.send_signal(signal.SIGSTOP)
    termios.tcsetattr(screen.its, termios.TCSANOW, screen.before)  # as the shell does
    screen.process.send_signal(signal.SIGCONT)
    screen.until(lambda: not termios.tcgetattr(screen.its)[3] & termios.ICANON)
    screen.press("4")
    screen.until("[4 machines]")


def test_quitting_does_not_wait_for_a_backend(project, tmp_path, top):
    with RedisServer(tmp_path / "redis") as server, Proxy(server.port) as proxy:
        project.configure(backend=f'backend = "redis://127.0.0.1:{proxy.port}"')
        project.push("note", "x")
        screen = top(project)
        screen.press("2")
        screen.until("› default")
        proxy.black_hole()
        screen.press("p")
        screen.until("Pause topic default")
        screen.press("y")
        screen.until("running jobsctl pause default")
        screen.press("q")
        screen.until("Quit, and stop what is running?")
        screen.press("y")
        assert screen.wait() == 0


def test_a_backend_without_features_says_so(project, top):
    project.configure(backend=f'backend = "file://{project.root}/queue"')
    project.push("note", "x")
    screen = top(project)
    screen.press("2")
    screen.until(lambda: re.search(r"› default +1", screen.text))  # it can count
    screen.press("p")
    screen.until("Pause topic default")
    screen.press("y")
    screen.until("✗ file:// does not support pause")
    screen.press("enter")
    screen.until("! file:// does not support browse")
    screen.press("3")
    screen.until("! file:// does not support browse")
    screen.press("4")
    screen.until("this machine only: file:// does not support documents")
    screen.press("q")
    assert screen.wait() == 0
    assert b"Traceback" not in screen.raw


def test_a_broken_configuration_is_said_in_the_views_that_need_it(project, top):
    supervised = Supervised(project)
    (project.root / "jobs.toml").write_text("backend = 7\n")
    screen = top(project)
    screen.until("is serving")
    screen.press("3")
    screen.until("! ")
    assert "jobs.toml" in screen.text
    screen.press("q")
    assert screen.wait() == 0
    assert supervised.process.stop() == 0
