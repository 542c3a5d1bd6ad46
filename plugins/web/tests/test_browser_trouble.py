"""What an open page does when the backend, the dashboard, a worker, the session or another user comes in between."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import ActionChains
from tests.support.supervised import kill

from jobs_core import State
from jobs_core.testing.services.redis import RedisServer

from .browsing import Window
from .stand import Shop


class Stand:
    """A shop on Redis, and a window of a user."""

    def __init__(self, window: Window, shop: Shop, redis: RedisServer) -> None:
        self.window = window
        self.shop = shop
        self.redis = redis


@pytest.fixture(scope="module")
def stand(chromium, tmp_path_factory) -> Iterator[Stand]:
    root: Path = tmp_path_factory.mktemp("shop")
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(RedisServer(root / "redis"))
        shop = Shop(root / "project", f"redis://127.0.0.1:{redis.port}/0")
        stack.callback(shop.close)
        window = Window(chromium, shop.address)
        stack.callback(window.go, "about:blank")
        yield Stand(window, shop, redis)


@pytest.fixture
def window(stand, look) -> Window:
    look(stand.window.driver, "wide", "light")
    stand.window.driver.delete_all_cookies()
    return stand.window.go(stand.shop.login)


@pytest.fixture
def shop(stand) -> Shop:
    return stand.shop


LISTEN = """
const told = document.getElementById("told");
window.heard = [];
new MutationObserver(() => heard.push(told.textContent)).observe(told, {childList: true, subtree: true, characterData: true});
"""


def told(window: Window, text: str) -> None:
    """Wait until the top of an open page has said whether it is up to date."""
    window.until(lambda window: text in window.driver.execute_script("return heard.join(' ')"), text)


# -- users -----------------------------------------------------------------------------------------


def test_a_double_click_runs_a_job_once(window, shop):
    dead = shop.dead("charge", "double")
    window.go(f"/job?id={dead}")
    window.press("pause")  # what the worker has yet to tell would replace the button in the middle of the double click
    ActionChains(window.driver).double_click(window.find("//button[.='Run again']")).perform()
    window.says("The job is ready to run.")
    shop.project.until(lambda: shop.charged("double") >= 2)
    shop.until_in(State.DEAD, dead)
    assert shop.charged("double") == 2


def test_of_two_users_with_the_same_page_one_runs_the_job_again(window, shop):
    dead = shop.dead("charge", "two users")
    window.go(f"/job?id={dead}").press("pause")
    one = window.driver.current_window_handle
    window.driver.switch_to.new_window("tab")
    window.go(f"/job?id={dead}").press("Run again")
    window.says("The job is ready to run.")
    shop.project.until(lambda: shop.charged("two users") == 2)
    shop.until_in(State.DEAD, dead)
    window.driver.close()
    window.driver.switch_to.window(one)
    window.press("Run again")
    window.says("Nothing was done: the job has changed since you saw it, and is dead now.")
    assert shop.charged("two users") == 2


def test_back_after_an_action_does_it_not_again(window, shop):
    dead = shop.dead("charge", "back")
    window.go("/jobs?topic=mail&state=dead").go(f"/job?id={dead}").press("Run again")
    window.says("The job is ready to run.")
    shop.project.until(lambda: shop.charged("back") == 2)
    shop.until_in(State.DEAD, dead)
    window.driver.back()
    window.find("//h1[starts-with(., 'tasks.charge')]|//h1[starts-with(., 'Jobs')]")
    window.driver.refresh()
    window.find("//h1[starts-with(., 'tasks.charge')]|//h1[starts-with(., 'Jobs')]")
    assert shop.charged("back") == 2


def test_an_action_after_the_session_has_ended_does_nothing_and_leads_back(window, shop):
    dead = shop.dead("charge", "late")
    window.go(f"/job?id={dead}").press("pause")
    window.driver.delete_all_cookies()
    window.press("Run again")
    window.shows("your session has ended, and nothing was done")
    window.press("Log in")
    window.fill("Token", shop.login.partition("key=")[2])
    window.press("Log in")
    window.find("//h1[starts-with(., 'tasks.charge')]")
    assert window.path == f"/job?id={dead}"
    assert shop.charged("late") == 1


def test_an_action_on_a_job_that_is_gone_says_so(window, shop):
    dead = shop.dead("charge", "gone")
    window.go(f"/job?id={dead}").press("pause")
    shop.app.operate(lambda backend: backend.drop([dead]))
    window.press("Run again")
    window.shows(f"unknown job {dead}")


# -- workers, the backend, the dashboard ------------------------------------------------------------


def test_a_worker_that_dies_is_on_the_open_page(window, shop):
    window.go("/machines")
    window.find("//p[contains(., ' 0 crashed')]")
    kill(min(shop.supervised.pids()))
    window.find("//p[contains(., ' 1 crashed')]")
    shop.supervised.until_serving(3)


def test_an_open_page_says_that_the_backend_is_away_and_follows_again(window, stand):
    window.go("/topics")
    window.driver.execute_script(LISTEN)
    stand.redis.kill()
    told(window, "The backend does not answer. This page shows what was known at ")
    stand.redis.start()
    told(window, "This page updates itself again.")


def test_a_page_that_could_not_be_shown_comes_by_itself(window, stand):
    stand.redis.kill()
    window.until(lambda window: "The backend does not answer" in window.go("/limits").text())
    stand.redis.start()
    window.find("//h1[.='Limits']")


def test_an_open_page_says_that_the_dashboard_is_away_and_leads_to_the_login_once_sessions_have_ended(window, shop):
    window.go("/topics?q=a").driver.execute_script(LISTEN)
    shop.web.kill()
    told(window, "The dashboard cannot be reached. This page shows what was known at ")
    shop.web = shop.serve()  # with another key
    window.fill("Token", shop.login.partition("key=")[2])
    window.press("Log in")
    window.find("//h1[.='Topics']")
    assert window.path == "/topics?q=a"
