"""A window of Debian's Chromium as a user has it: by mouse, or by keyboard alone and without JavaScript."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import pytest
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait
from tests.support.project import PATIENCE

MOST_STOPS = 400
"""Stops of the Tab key on a page: a button that is not among them cannot be reached."""


class Window:
    """A window. Waits for elements, never for time: a click returns before the next page is there."""

    def __init__(self, driver: Any, address: str, *, keyboard: bool = False) -> None:
        self.driver = driver
        self.address = address
        self.keyboard = keyboard

    def go(self, path: str) -> Window:
        self.driver.get(self.address + path if path.startswith("/") else path)
        return self

    @property
    def path(self) -> str:
        """Return the path of the page, with its query."""
        return str(self.driver.current_url).removeprefix(self.address)

    def find(self, xpath: str) -> Any:
        """Return an element once the page has it and it can be seen."""

        def seen(driver: Any) -> Any:
            return next((each for each in driver.find_elements("xpath", xpath) if each.is_displayed()), None)

        return self.until(lambda window: seen(window.driver), xpath)

    def until(self, condition: Callable[[Window], Any], what: str = "this") -> Any:
        """Wait until a condition of this window holds; the page may be replaced meanwhile."""
        wait = WebDriverWait(self.driver, PATIENCE, 0.05, ignored_exceptions=[StaleElementReferenceException])
        try:
            return wait.until(lambda driver: condition(self))
        except TimeoutException:
            raise AssertionError(f"{what} never came on {self.path}:\n{self.driver.page_source}") from None

    def text(self) -> str:
        """Return the text of the page."""
        return " ".join(each.text for each in self.driver.find_elements("tag name", "main"))

    def says(self, text: str) -> None:
        """Wait until the page after an action says what was done."""
        self.find(f"//p[contains(concat(' ', @class, ' '), ' said ')][contains(normalize-space(.), {quoted(text)})]")

    def shows(self, text: str) -> None:
        """Wait until the page contains a text."""
        self.find(f"//*[contains(normalize-space(.), {quoted(text)})]")

    def press(self, label: str, row: str = "") -> None:
        """Press a button or a link by what is written on it, in the row or card that contains a text."""
        inside = f"[ancestor::*[self::tr or self::section][1][contains(., {quoted(row)})]]" if row else ""
        xpath = f"//*[self::button or self::a][starts-with(normalize-space(.), {quoted(label)})]{inside}"

        def act() -> None:
            element = self.find(xpath)
            if self.keyboard:
                self.reach(element)
                self.keys(Keys.ENTER)
            else:
                element.click()

        self._acting(act, label)

    def _acting(self, act: Callable[[], None], what: str) -> None:
        """Do what a user does with an element of this page; an open page may replace it by a newer one meanwhile."""
        for _ in range(100):
            try:
                act()
                return
            except StaleElementReferenceException:
                continue
        raise AssertionError(f"{what!r} is replaced all the time")

    def fill(self, field: str, text: str) -> None:
        """Replace what is in a field, which is named by its label."""
        label = f"@id=//label[starts-with(normalize-space(.), {quoted(field)})]/@for"
        xpath = f"//*[self::input or self::textarea][{label} or starts-with(@aria-label, {quoted(field)})]"

        def act() -> None:
            element = self.find(xpath)
            if self.keyboard:
                self.reach(element)
                ActionChains(self.driver).key_down(Keys.CONTROL).send_keys("a").key_up(Keys.CONTROL).perform()
                self.keys(Keys.DELETE, text)
            else:
                element.clear()
                element.send_keys(text)

        self._acting(act, field)

    def tick(self, label: str) -> None:
        """Tick a box by what its label says."""
        xpath = f"//label[contains(., {quoted(label)})]/input"

        def act() -> None:
            box = self.until(lambda window: window.driver.find_elements("xpath", xpath), label)[0]
            if self.keyboard:
                self.reach(box)
                self.keys(Keys.SPACE)
            else:
                box.click()
            assert box.is_selected()

        self._acting(act, label)

    def has_title(self, text: str) -> None:
        """Wait until the page is the one with this heading: what is on the last page, too, could be found there."""
        self.find(f"//h1[starts-with(normalize-space(.), {quoted(text)})]")

    def reach(self, element: Any) -> None:
        """Go to an element by the Tab key."""
        for _ in range(MOST_STOPS):
            if self.driver.switch_to.active_element == element:
                return
            self.keys(Keys.TAB)
        raise AssertionError(f"the Tab key does not reach {element.get_attribute('outerHTML')} on {self.path}")

    def keys(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def complaints(self) -> list[str]:
        """Return what the browser has complained about, such as a violation of the policy, but for answers with an error."""
        return [each["message"] for each in self.driver.get_log("browser") if "Failed to load resource" not in each["message"]]


def quoted(text: str) -> str:
    """Return a text as XPath writes it."""
    parts = ", '\"', ".join(f'"{part}"' for part in text.split('"'))
    return f"concat({parts}, '')"


@contextlib.contextmanager
def without_script(driver: Any) -> Iterator[None]:
    """Let pages have no JavaScript."""
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        yield
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


# -- what is wrong with a page -----------------------------------------------------------------------

FAULTS = """
const found = [], room = arguments[0];
const wide = document.documentElement.scrollWidth;
if (wide > room) found.push("wider than the window: " + wide);
for (const each of document.querySelectorAll("button, input:not([type=hidden]), select, summary")) {
  const box = each.getBoundingClientRect();
  const outside = box.width && !each.closest(".table") && (box.left < 0 || box.right > room);
  if (outside) found.push("outside: " + each.outerHTML.slice(0, 100));
}
const ids = [...document.querySelectorAll("[id]")].map((each) => each.id);
for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push("twice: #" + id);
if (document.querySelectorAll("h1").length !== 1) found.push("not one h1");
return found;
"""
"""Returns what is wrong with a page that axe does not see: overflow, elements outside of the window, ids, headings."""

AXE = """
const [rules, done] = arguments;
axe.run(document, {resultTypes: ["violations"], ...(rules.length ? {runOnly: rules} : {})}).then(
  (result) => done(result.violations.map((each) => [each.impact, each.id, each.nodes.map((node) => node.html.slice(0, 200))])),
  (error) => done([["critical", String(error), []]]));
"""


@functools.cache
def axe_script() -> str:
    """Return axe-core. Without it, skip the test, or fail it in CI."""
    try:
        return str(distribution("axe-playwright-python").locate_file("axe_playwright_python/axe.min.js").read_text())
    except PackageNotFoundError:
        why = "axe-core is missing: tools/bootstrap.sh .venv python3 installs it"
        if os.environ.get("CI"):
            pytest.fail(why, pytrace=False)
        pytest.skip(why)


def faults(driver: Any, width: int, rules: Sequence[str] | None = ()) -> list[Any]:
    """Return what is wrong with the page that is shown: with its layout, and for users of assistive technology.

    `rules` are those that axe tries; none: all of them; None: axe is not asked.
    """
    found = [*driver.execute_script(FAULTS, width)]
    if rules is not None:
        driver.execute_script(axe_script())
        found += driver.execute_async_script(AXE, rules)
    return found
