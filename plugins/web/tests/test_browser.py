"""How every page looks in Debian's Chromium: at 360 and 1440 pixels, light and dark; with whatever a job may carry."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jobs_core import State, set_current_app
from jobs_web.routes import ROUTES, Kind

from .browsing import Window, faults, without_script

STREAMS = {"/live", "/find"}
"""Routes that are read by scripts, or lead to another page."""


@pytest.fixture
def browser(chromium):
    """The browser, which has left the last page, whose server is gone, and has no complaints."""
    chromium.get("about:blank")
    chromium.get_log("browser")
    return chromium


@pytest.fixture
def make_shop(draw: ModuleType, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    made = []

    def make(topics: int = 0) -> Any:
        made.append(draw.Shop(tmp_path, topics))
        return made[0]

    yield make
    for shop in made:
        shop.app.close()
    set_current_app(None)


@pytest.fixture
def shop(make_shop):
    return make_shop()


ALL: tuple[str, ...] = ()
COLOURS = ("color-contrast", "scrollable-region-focusable", "target-size")
"""What differs between two looks of a page: names, roles and order are the same."""

EVERY_LOOK = {("wide", "light"): ALL, ("wide", "dark"): COLOURS, ("narrow", "light"): COLOURS, ("narrow", "dark"): ALL}
TWO_LOOKS = {("wide", "light"): None, ("narrow", "dark"): ALL}
LAYOUT = {("wide", "dark"): None, ("narrow", "light"): None}
"""Sizes and schemes, with the rules that axe tries; None: it is not asked, because it takes half a second a page."""


def looked_at(window: Window, draw: ModuleType, paths: Any, looks: Any, refresh: Callable[[], None] = lambda: None) -> None:
    """Find nothing wrong with pages, at each size and in each scheme."""
    for path, ((size, scheme), rules) in itertools.product(paths, looks.items()):
        refresh()
        draw.look(window.driver, size, scheme)
        window.go(path)
        assert faults(window.driver, draw.SIZES[size][0], rules) == [], f"{path}, {size}, {scheme}"
    assert window.complaints() == []


@pytest.mark.parametrize("size", ["wide", "narrow"])
def test_every_page_at_every_size_and_in_both_schemes(draw, browser, shop, size):
    shop.fill()
    looks = {look: rules for look, rules in EVERY_LOOK.items() if look[0] == size}
    with draw.served(shop.app) as (address, login):
        looked_at(Window(browser, address).go(login), draw, shop.pages().values(), looks, shop.refresh)


def test_every_page_of_the_route_table_is_looked_at(shop):
    shop.fill()
    pages = {path.partition("?")[0] for path in shop.pages().values()}
    assert pages == {route.path for route in ROUTES if route.kind is Kind.PAGE and route.method == "GET"} - STREAMS


def test_hostile_long_and_foreign_texts_fit_and_are_nothing_but_text(draw, browser, shop):
    ids = shop.mischief()
    with draw.served(shop.app) as (address, login):
        window = Window(browser, address).go(login)
        jobs = {f"/job?id={draw.quote(job_id)}" for job_id in ids}
        looked_at(window, draw, shop.pages().values(), TWO_LOOKS)
        looked_at(window, draw, jobs, LAYOUT)
        for path in ("/topics?q=", "/jobs?topic=", "/jobs?text=", "/find?id=", "/dead/group?id=", "/login?next="):
            window.go(path + draw.quote(draw.HOSTILE + draw.NASTY))
            assert not browser.find_elements("css selector", "main img, main script, main b"), path
        assert window.complaints() == []


def test_pages_with_nothing_on_them(draw, browser, shop):
    with draw.served(shop.app) as (address, login):
        looked_at(Window(browser, address).go(login), draw, shop.pages().values(), TWO_LOOKS)


def test_hundreds_of_topics_fit(draw, browser, make_shop):
    many = make_shop(300)
    with draw.served(many.app) as (address, login):
        looked_at(Window(browser, address).go(login), draw, ("/", "/topics", "/topics?q=none-of-them"), LAYOUT)


def test_a_question_and_a_form_with_a_problem_look_well(draw, browser, shop):
    shop.fill()
    with draw.served(shop.app) as (address, login):
        window = Window(browser, address).go(login)
        for size, scheme in TWO_LOOKS:
            draw.look(browser, size, scheme)
            window.go(f"/job?id={shop.dead}").press("Delete")
            window.shows("Delete this dead letter for good?")
            assert faults(browser, draw.SIZES[size][0]) == []
            window.press("No")
            window.fill("Arguments as JSON", "{")
            window.press("Run again", "Arguments as JSON")
            window.says("invalid arguments: ")
            assert faults(browser, draw.SIZES[size][0]) == []


def test_an_operator_finds_what_is_wrong_and_mends_it_in_three_clicks_without_javascript(draw, browser, shop):
    shop.fill()
    with draw.served(shop.app) as (address, login), without_script(browser):
        window = Window(browser, address).go(login)
        window.find("//li[contains(., 'dead letters: ConnectionError')]//a").click()
        window.has_title("ConnectionError")
        window.find("//td[@class='name']/a").click()
        window.has_title("shop.billing.charge")
        window.press("Run again")
        window.says("The job is ready to run.")
    assert shop.app.status(shop.dead) is State.READY


def test_the_keyboard_reaches_the_content_first(draw, browser, shop):
    from selenium.webdriver.common.keys import Keys

    with draw.served(shop.app) as (address, login):
        window = Window(browser, address).go(login)
        window.keys(Keys.TAB)
        assert browser.switch_to.active_element.text == "Skip to the content"
        window.keys(Keys.ENTER)
        assert browser.switch_to.active_element.get_attribute("id") == "main"


def test_a_page_follows_what_happens_until_it_is_paused(draw, browser, shop):
    def ready(window: Window) -> str:
        return window.until(lambda window: str(window.find("//dt[text()='ready']/following-sibling::dd").text), "ready")

    draw.look(browser, "wide", "light")
    with draw.served(shop.app) as (address, login):
        window = Window(browser, address).go(login)
        assert ready(window) == "0"
        browser.execute_script("window.mark = 1")
        shop.jobs["pack"].enqueue(1)
        window.until(lambda window: ready(window) == "1")
        assert browser.execute_script("return window.mark") == 1  # it was not loaded anew
        window.press("pause")
        shop.jobs["pack"].enqueue(2)
        browser.execute_async_script("setTimeout(arguments[0], 3000)")  # three readings
        assert ready(window) == "1"
        window.press("follow")
        window.until(lambda window: ready(window) == "2")
        assert window.complaints() == []


def test_a_job_is_followed_but_not_while_a_form_is_filled_in(draw, browser, shop):
    draw.look(browser, "wide", "light")
    shop.fill()
    handle = shop.jobs["pack"].enqueue(1)
    with draw.served(shop.app) as (address, login):
        window = Window(browser, address).go(login).go(f"/job?id={handle.id}")
        browser.execute_script("window.mark = 1")
        shop.app.operate(lambda backend: backend.pause("default"))
        window.find("//ul[@class='why']/li[contains(., 'paused')]")
        assert browser.execute_script("return window.mark") == 1  # it was not loaded anew
        found = shop.app.operate(lambda backend: backend.dead_groups(["billing"], 1))[0]
        group, left = found.fingerprint.id, found.letters - 1
        window.go(f"/dead/group?id={group}").fill("At most", "10/s")
        browser.execute_script("document.activeElement.blur(); window.mark = 2")
        shop.app.operate(lambda backend: backend.requeue([shop.dead]))
        browser.execute_async_script("setTimeout(arguments[0], 3000)")  # three readings
        assert browser.find_element("name", "rate").get_attribute("value") == "10/s"
        browser.execute_script("document.querySelector('[name=rate]').value = ''")
        window.find(f"//h2[contains(text(), 'Run {left} dead letters again')]")
        assert browser.execute_script("return window.mark") == 2
        assert window.complaints() == []


def test_a_page_inside_flask_follows_without_a_stream(draw, browser, shop):
    from flask import Flask
    from werkzeug.serving import make_server

    from jobs_web.flask import blueprint
    from jobs_web.roles import Role, User

    application = Flask("shop")
    application.register_blueprint(blueprint(lambda: User("anna", Role.ADMIN), app=shop.app), url_prefix="/jobs")
    draw.look(browser, "wide", "light")
    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        window = Window(browser, f"http://127.0.0.1:{server.server_port}/jobs").go("/")
        browser.execute_script("window.mark = 1")
        shop.jobs["pack"].enqueue(1)
        window.find("//dt[text()='ready']/following-sibling::dd[1][normalize-space()='1']")
        assert browser.execute_script("return window.mark") == 1  # it was not loaded anew
        assert window.complaints() == []
    finally:
        browser.get("about:blank")
        server.shutdown()
        thread.join()
        server.server_close()
