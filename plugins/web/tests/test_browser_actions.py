"""Every action in a real browser, with real workers: by mouse on Redis, and by keyboard without JavaScript on SQLite."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs_core import State
from jobs_core.testing.services.redis import RedisServer
from jobs_web.routes import ROUTES, Kind

from .browsing import Window, without_script
from .stand import Shop

ACTIONS: dict[str, Callable[[Window, Shop], None]] = {}
"""What tries each action, by its path."""


def action(path: str) -> Callable[[Callable[[Window, Shop], None]], Callable[[Window, Shop], None]]:
    def add(tries: Callable[[Window, Shop], None]) -> Callable[[Window, Shop], None]:
        ACTIONS[path] = tries
        return tries

    return add


@pytest.fixture(scope="module", params=["mouse on Redis", "keyboard without JavaScript on SQLite"])
def stand(request: pytest.FixtureRequest, chromium, tmp_path_factory) -> Iterator[tuple[Window, Shop]]:
    root: Path = tmp_path_factory.mktemp("shop")
    with contextlib.ExitStack() as stack:
        keyboard = request.param.startswith("keyboard")
        backend = "sqlite:///queue.db"
        if not keyboard:
            redis = stack.enter_context(RedisServer(root / "redis"))
            backend = f"redis://127.0.0.1:{redis.port}/0"
        shop = Shop(root / "project", backend)
        stack.callback(shop.close)
        if keyboard:
            stack.enter_context(without_script(chromium))
        window = Window(chromium, shop.address, keyboard=keyboard)
        stack.callback(window.go, "about:blank")
        yield window, shop


@pytest.fixture
def window(stand, look) -> Window:
    """The window of a user who is logged in."""
    window, shop = stand
    look(window.driver, "wide", "light")
    window.driver.delete_all_cookies()
    window.complaints()
    return window.go(shop.login)


@pytest.fixture
def shop(stand) -> Shop:
    return stand[1]


# -- topics ----------------------------------------------------------------------------------------


@action("/topics/pause")
def pauses_a_topic(window, shop):
    window.go("/topics?q=a").press("Pause", "parked")
    window.says("Topic parked is paused")
    assert window.path == "/topics?q=a"
    assert shop.app.operate(lambda backend: backend.paused()) == {"parked"}
    shop.app.operate(lambda backend: backend.resume("parked"))


@action("/topics/resume")
def resumes_a_topic(window, shop):
    shop.app.operate(lambda backend: backend.pause("parked"))
    window.until(lambda window: "paused" in window.go("/topics").text())  # the page may be a second old
    window.press("Resume", "parked")
    window.says("Topic parked is no longer paused")
    assert shop.app.operate(lambda backend: backend.paused()) == set()


# -- jobs ------------------------------------------------------------------------------------------


@action("/job/cancel")
def cancels_a_job_that_waits_and_one_that_runs(window, shop):
    waiting = shop.project.push("later", 1, topic="parked")
    window.go(f"/job?id={waiting}").press("Cancel")
    window.says("The job is cancelled.")
    assert shop.state(waiting) is State.CANCELLED
    running = shop.project.push("hold", "never", topic="slow")
    shop.until_in(State.RESERVED, running)
    window.go(f"/job?id={running}").press("Cancel")
    window.says("its worker is told to stop it")
    shop.until_in(State.CANCELLED, running)


@action("/job/retry")
def runs_a_dead_job_again_and_a_scheduled_one_now(window, shop):
    dead = shop.dead("charge", "Żółć")
    window.go("/jobs?topic=mail&state=dead").press("tasks.charge")
    window.has_title("tasks.charge")
    window.press("Run again")
    window.says("The job is ready to run.")
    shop.project.until(lambda: shop.charged("Żółć") == 2)
    shop.until_in(State.DEAD, dead)
    scheduled = shop.later(1)
    window.go(f"/job?id={scheduled}").press("Run now")
    window.says("The job is ready to run.")
    assert shop.state(scheduled) is State.READY


@action("/job/edit")
def runs_a_dead_job_again_with_other_arguments(window, shop):
    dead = shop.dead("charge", "bob")
    window.go(f"/job?id={dead}").fill("Arguments as JSON", '{"args": ["bob", "many"]}')
    window.press("Run again", "Arguments as JSON")
    window.says("amount")  # it does not fit: what was typed is still there
    window.fill("Arguments as JSON", '{"args": ["bob"], "kwargs": {"amount": 100}}')
    window.press("Run again", "Arguments as JSON")
    window.says("The job is ready to run.")
    shop.project.until(lambda: shop.charged("bob") == 2 and shop.state(dead) is not State.DEAD)


@action("/job/discard")
def changes_a_job_that_waits(window, shop):
    waiting = shop.later(1)
    window.go(f"/job?id={waiting}").press("Make it a dead letter")
    window.says("The job is a dead letter now")
    window.fill("Arguments as JSON", '{"args": [2]}')
    window.press("Run again", "Arguments as JSON")
    window.says("The job is ready to run.")
    assert shop.app.read(shop.app.find(waiting)).args == [2]


@action("/job/drop")
def deletes_a_dead_job_if_the_user_is_sure(window, shop):
    dead = shop.dead("charge", "eve")
    window.go(f"/job?id={dead}").press("Delete")
    window.shows("Delete this dead letter for good?")
    window.press("No")
    window.press("Delete")
    window.press("Yes, do it")
    window.says("The dead letter is deleted.")
    assert shop.state(dead) is None


@action("/jobs/retry")
def runs_picked_jobs_again(window, shop):
    picked, other = shop.dead("charge", "carl"), shop.dead("charge", "dora")
    window.go("/jobs?topic=mail&state=dead").tick(picked)
    window.press("Run again", "With the picked" if window.keyboard else "1 of")
    window.says("1 job is ready to run.")
    shop.project.until(lambda: shop.charged("carl") == 2)
    assert shop.state(other) is State.DEAD
    assert shop.charged("dora") == 1


@action("/jobs/cancel")
def cancels_picked_jobs(window, shop):
    picked, other = (shop.project.push("later", number, topic="parked") for number in (1, 2))
    window.go("/jobs?topic=parked").tick(picked)
    window.press("Cancel", "picked")
    window.press("Yes, do it")
    window.says("1 job is cancelled")
    assert (shop.state(picked), shop.state(other)) == (State.CANCELLED, State.READY)


@action("/jobs/drop")
def deletes_picked_jobs(window, shop):
    picked, other = shop.dead("charge", "carl"), shop.dead("charge", "dora")
    window.go("/jobs?topic=mail&state=dead").tick(picked)
    window.press("Delete", "picked")
    window.press("Yes, do it")
    window.says("1 job is deleted.")
    assert (shop.state(picked), shop.state(other)) == (None, State.DEAD)


# -- groups of dead letters ------------------------------------------------------------------------


@action("/dead/retry")
def runs_a_group_again(window, shop):
    for number in range(3):
        shop.dead("write", f"nobody{number}@example.com")
    window.go("/dead").press("ValueError: no such mailbox")
    window.fill("At most", "100/s")
    window.press("Run again", "At most")
    window.says("3 dead letters will be retried by the supervisors")
    window.until(lambda window: "3 of 3" in window.go("/dead").text())


@action("/dead/stop")
def cancels_an_action_on_a_group(window, shop):
    shop.dead("remind", "anna@example.com")
    window.go("/dead").press("TimeoutError")
    window.fill("At most", "1/h")
    window.press("Run again", "At most")
    window.press("Cancel", "1/h")
    window.says("cancelled")


@action("/dead/drop")
def deletes_a_group(window, shop):
    dead = shop.dead("remind", "bob@example.com")
    window.go("/dead").press("TimeoutError")
    window.press("Delete them")
    window.press("Yes, do it")
    window.says("will be dropped by the supervisors")
    shop.until_in(None, dead)


# -- flows -----------------------------------------------------------------------------------------


@action("/flow/retry")
def runs_the_dead_members_of_a_flow_again(window, shop):
    shop.failed_flow("order 7")
    window.go("/flows").press("order 7")
    window.press("Run dead members again")
    window.says("1 member of the flow will run again.")
    shop.project.until(lambda: shop.charged("order 7") == 2)


@action("/flow/cancel")
def cancels_a_flow(window, shop):
    flow = shop.failed_flow("order 8")
    window.go(f"/flow?id={flow}").press("Cancel the flow")
    window.press("Yes, do it")
    window.says("The flow is cancelled.")
    assert shop.app.operate(lambda backend: backend.flow(flow).state) == "cancelled"


# -- limits, schedule, machines --------------------------------------------------------------------


@action("/limits/override")
def overrides_a_limit(window, shop):
    window.go("/limits").fill("Limit, or one value of it", "bank:żółć")
    window.fill("At once", "2")
    window.fill("Rate", "10/s")
    window.press("Override")
    window.says("Limit bank:żółć: 2 at once, 10/s, until it is reset.")
    window.shows("overridden")


@action("/limits/reset")
def resets_a_limit(window, shop):
    from jobs_core.backends.limits import Limit

    shop.app.operate(lambda backend: backend.override_limit("bank:bob", Limit(2)))
    window.go("/limits").press("Reset", "bank:bob")
    window.says("Limit bank:bob is as it is defined.")


@action("/schedule/run")
def runs_an_entry_of_the_schedule_now(window, shop):
    window.go("/schedule").press("Run now", "tasks.report")
    window.says("tasks.report is enqueued.")
    assert window.path.startswith("/job?id=")


@action("/schedule/pause")
def pauses_an_entry_of_the_schedule(window, shop):
    window.go("/schedule").press("Pause", "tasks.report")
    window.says("tasks.report is paused on all machines.")
    shop.project.here("schedule", "resume", "tasks.report")


@action("/schedule/resume")
def resumes_an_entry_of_the_schedule(window, shop):
    shop.project.here("schedule", "pause", "tasks.report")
    window.go("/schedule").press("Resume", "tasks.report")
    window.says("tasks.report is resumed")


@action("/schedule/save")
@action("/schedule/remove")
def adds_changes_and_removes_an_entry_of_the_schedule(window, shop):
    window.go("/schedule").fill("Name", "pack żółć")
    window.fill("Job", "tasks.pack")
    window.fill("Or every", "5h")
    window.fill("Arguments as JSON", '{"args": [7]}')
    window.press("Add")
    window.says("pack żółć")
    window.press("Change", "pack żółć")
    window.find("//input[@name='replace']/following::input[@name='every' and @value='5h']")
    window.fill("Or every", "7h")
    window.press("Change", "Arguments as JSON")
    window.find("//code[contains(., '7h')]")
    window.press("Remove", "pack żółć")
    window.press("Yes, do it")
    window.says("pack żółć")
    window.until(lambda window: not window.driver.find_elements("xpath", "//bdi[.='pack żółć']"))


@action("/machines/quiet")
@action("/machines/resume")
def tells_a_machine_to_take_no_new_jobs_and_to_take_them_again(window, shop):
    for label, state in (("Quiet", "quiet"), ("Resume", "serving")):
        window.go("/machines").press(label)
        window.says("The command is sent")
        shop.supervised.until_state(state)
        reported = f"//h2/span[.='{state}']"  # with JavaScript, the page follows by itself
        window.until(lambda window, xpath=reported: _again(window).driver.find_elements("xpath", xpath))


def _again(window: Window) -> Window:
    return window.go("/machines") if window.keyboard else window


@action("/machines/reload")
def tells_a_machine_to_load_new_code(window, shop):
    window.go("/machines").press("Reload")
    window.says("The command is sent")
    shop.supervised.until(lambda board: board.supervisor.generation == 2)


@action("/machines/stacks")
def takes_the_stacks_of_the_workers(window, shop):
    window.go("/machines").press("Take stacks")
    window.says("The command is sent")
    taken = "//main//h2[starts-with(., 'Process')]"  # with JavaScript, the page follows by itself
    window.until(lambda window: (window.go(window.path) if window.keyboard else window).driver.find_elements("xpath", taken))


@action("/machines/scale")
def sets_the_size_of_a_pool(window, shop):
    window.go("/machines").fill("Workers of pool slow", "2")
    window.press("Set", "slow")
    window.shows("The configuration allows up to 1 worker.")
    window.press("Yes, do it")
    window.says("Pool slow of")
    shop.supervised.until_serving(4)


# -- sessions --------------------------------------------------------------------------------------


@action("/login")
@action("/logout")
def logs_in_and_out_and_in_again_on_the_way_to_a_page(window, shop):
    window.go("/topics").press("log out")
    window.find("//h1[.='Log in']")
    window.go("/limits").fill("Token", "wrong")
    window.press("Log in")
    window.says("there is no such token")
    window.fill("Token", shop.login.partition("key=")[2])
    window.press("Log in")
    window.shows("Override")
    assert window.path == "/limits"


# -- all of them -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tries", dict.fromkeys(ACTIONS.values()), ids=lambda tries: tries.__name__)
def test_an_action(window, shop, tries):
    tries(window, shop)
    assert window.complaints() == []


def test_every_action_is_tried_in_a_browser():
    assert sorted(ACTIONS) == sorted({route.path for route in ROUTES if route.kind is Kind.PAGE and route.method == "POST"})
