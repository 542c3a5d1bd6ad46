"""The dashboard in a real browser: Debian's Chromium, at 360 and 1440 pixels, light and dark, with and without JavaScript."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]

FAULTS = """
const found = [];
const wide = document.documentElement.scrollWidth;
if (wide > innerWidth) found.push("wider than the window: " + wide);
const numbers = (colour) => colour.match(/[0-9.]+/g).map(Number);
const ground = (element) => {
  for (let each = element; each; each = each.parentElement) {
    const colour = numbers(getComputedStyle(each).backgroundColor);
    if (colour.length < 4 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
const light = (colour) => {
  const linear = (part) => part / 255 <= 0.03928 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = colour.slice(0, 3).map(linear);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest("svg, option")) continue;
  const one = light(numbers(getComputedStyle(element).color)), other = light(ground(element));
  const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  if (contrast < 4.5) found.push(contrast.toFixed(2) + ": " + walker.currentNode.data.trim().slice(0, 60));
}
for (const field of document.querySelectorAll("input:not([type=hidden]), textarea, select"))
  if (!field.labels.length && !field.ariaLabel) found.push("no label: " + field.outerHTML.slice(0, 100));
for (const each of document.querySelectorAll("button, a"))
  if (!each.textContent.trim()) found.push("no name: " + each.outerHTML.slice(0, 100));
const ids = [...document.querySelectorAll("[id]")].map((each) => each.id);
for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push("twice: #" + id);
if (document.querySelectorAll("h1").length !== 1) found.push("not one h1");
return found;
"""
"""Returns what is wrong with a page: overflow, contrast, labels, names, ids."""

if not (os.path.exists("/usr/bin/chromium") and shutil.which("chromedriver")) and not os.environ.get("CI"):
    pytest.skip("chromium and chromium-driver are not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def draw() -> ModuleType:
    """The script that takes the pictures of the documentation: it has the shop, the server and the browser."""
    spec = importlib.util.spec_from_file_location("draw_dashboard", ROOT / "tools" / "draw_dashboard.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["draw_dashboard"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def chromium(draw: ModuleType) -> Iterator[object]:
    with draw.chromium() as driver:
        yield driver


@pytest.fixture
def browser(chromium):
    """The browser, which has left the last page, whose server is gone, and has no complaints."""
    chromium.get("about:blank")
    chromium.get_log("browser")
    return chromium


@pytest.fixture
def shop(draw: ModuleType, tmp_path: Path) -> Iterator[object]:
    from jobs_core import set_current_app

    made = draw.Shop(tmp_path)
    yield made
    made.app.close()
    set_current_app(None)


def complaints(driver) -> list[str]:
    """Return what the browser has complained about, such as a violation of the policy."""
    return [entry["message"] for entry in driver.get_log("browser")]


def test_every_page_at_every_size_and_in_both_schemes(draw, browser, shop):
    shop.fill()
    with draw.served(shop.app) as (address, login):
        browser.get(address + login)
        for name, path in shop.pages().items():
            for size in draw.SIZES:
                for scheme in ("light", "dark"):
                    shop.refresh()
                    draw.look(browser, size, scheme)
                    browser.get(address + path)
                    assert browser.execute_script(FAULTS) == [], f"{name}, {size}, {scheme}"
        assert complaints(browser) == []


def test_an_operator_finds_what_is_wrong_and_mends_it_in_three_clicks_without_javascript(draw, browser, shop):
    from jobs_core import State

    shop.fill()
    with draw.served(shop.app) as (address, login):
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        try:
            browser.get(address + login)
            click(browser, "//li[contains(., 'dead letters: ConnectionError')]//a")
            click(browser, "//td[@class='name']/a")
            click(browser, "//button[text()='Run again']")
            wait_for(browser, "//*[contains(text(), 'The job is ready to run.')]")
        finally:
            browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert shop.app.status(shop.dead) is State.READY


def wait_for(driver, xpath: str):
    """Return the element once the page has it: a click returns before the browser has sent a form."""
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(driver, 60).until(lambda driver: driver.find_element("xpath", xpath))


def click(driver, xpath: str) -> None:
    wait_for(driver, xpath).click()


def test_the_keyboard_reaches_the_content_first(draw, browser, shop):
    from selenium.webdriver.common.keys import Keys

    with draw.served(shop.app) as (address, login):
        browser.get(address + login)
        browser.switch_to.active_element.send_keys(Keys.TAB)
        skip = browser.switch_to.active_element
        assert skip.text == "Skip to the content"
        skip.send_keys(Keys.ENTER)
        assert browser.switch_to.active_element.get_attribute("id") == "main"


def test_hundreds_of_topics_and_none_fit(draw, browser, tmp_path):
    from jobs_core import set_current_app

    many = draw.Shop(tmp_path, topics=300)
    with draw.served(many.app) as (address, login):
        browser.get(address + login)
        for size in draw.SIZES:
            for path in ("/", "/topics", "/topics?q=none-of-them"):
                draw.look(browser, size, "light")
                browser.get(address + path)
                assert browser.execute_script(FAULTS) == [], f"{path}, {size}"
    many.app.close()
    set_current_app(None)


def test_a_page_follows_what_happens_until_it_is_paused(draw, browser, shop):
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.wait import WebDriverWait

    def ready(driver) -> str:
        return driver.find_element("xpath", "//dt[text()='ready']/following-sibling::dd").text

    draw.look(browser, "wide", "light")
    wait = WebDriverWait(browser, 60, ignored_exceptions=[StaleElementReferenceException])
    with draw.served(shop.app) as (address, login):
        browser.get(address + login)
        assert ready(browser) == "0"
        browser.execute_script("window.mark = 1")
        shop.jobs["pack"].enqueue(1)
        wait.until(lambda driver: ready(driver) == "1")
        assert browser.execute_script("return window.mark") == 1  # it was not loaded anew
        click(browser, "//button[text()='pause']")
        shop.jobs["pack"].enqueue(2)
        browser.execute_async_script("setTimeout(arguments[0], 3000)")  # three readings
        assert ready(browser) == "1"
        click(browser, "//button[text()='follow']")
        wait.until(lambda driver: ready(driver) == "2")
        assert complaints(browser) == []


def test_a_job_is_followed_but_not_while_a_form_is_filled_in(draw, browser, shop):
    draw.look(browser, "wide", "light")
    shop.fill()
    handle = shop.jobs["pack"].enqueue(1)
    with draw.served(shop.app) as (address, login):
        browser.get(address + login)
        browser.get(f"{address}/job?id={handle.id}")
        browser.execute_script("window.mark = 1")
        shop.app.operate(lambda backend: backend.pause("default"))
        wait_for(browser, "//ul[@class='why']/li[contains(., 'paused')]")
        assert browser.execute_script("return window.mark") == 1  # it was not loaded anew
        found = shop.app.operate(lambda backend: backend.dead_groups(["billing"], 1))[0]
        group, left = found.fingerprint.id, found.letters - 1
        browser.get(f"{address}/dead/group?id={group}")
        wait_for(browser, "//input[@name='rate']").send_keys("10/s")
        browser.execute_script("document.activeElement.blur(); window.mark = 2")
        shop.app.operate(lambda backend: backend.requeue([shop.dead]))
        browser.execute_async_script("setTimeout(arguments[0], 3000)")  # three readings
        assert browser.find_element("name", "rate").get_attribute("value") == "10/s"
        browser.execute_script("document.querySelector('[name=rate]').value = ''")
        wait_for(browser, f"//h2[contains(text(), 'Run {left} dead letters again')]")
        assert browser.execute_script("return window.mark") == 2
        assert complaints(browser) == []


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
        browser.get(f"http://127.0.0.1:{server.server_port}/jobs/")
        browser.execute_script("window.mark = 1")
        shop.jobs["pack"].enqueue(1)
        wait_for(browser, "//dt[text()='ready']/following-sibling::dd[1][normalize-space()='1']")
        assert browser.execute_script("return window.mark") == 1  # it was not loaded anew
        assert complaints(browser) == []
    finally:
        browser.get("about:blank")
        server.shutdown()
        thread.join()
        server.server_close()
