"""Draw the pictures of docs/top.md: `python tools/draw_top.py` writes docs/pictures/top*.svg; tests compare them."""

from __future__ import annotations

import io
import sys
import time
import unittest.mock
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from jobs_core.backends.letters import Fingerprint
from jobs_core.cli.dead_groups import Group
from jobs_core.cli.top.acting import Act
from jobs_core.cli.top.screen import Screen, rendered
from jobs_core.scoreboard.state import TopicState

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
NOW = 1_790_000_000.0

FORMAT = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">
<title>TITLE</title>
<desc>DESC</desc>
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, Menlo, Consolas, monospace; font-size: {char_height}px; line-height: {line_height}px;
}}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def screen() -> Any:
    """Return a screen without threads, in no terminal."""
    made: Any = Screen(SimpleNamespace(place=SimpleNamespace(run_dir=Path())), 1.0)  # type: ignore[arg-type]
    return made


def topics() -> Any:
    made = screen()
    made._views = [view := made._tabs[1]]
    view._topics = {
        "default": TopicState(3, 0, 2, 0, 0.4),
        "email": TopicState(1203, 12, 8, 0, 95.0, True),
        "imports": TopicState(0, 0, 1, 0, None),
        "reports": TopicState(41, 0, 4, 52, 310.0),
    }
    view._marks = {"reports": ["alert"]}
    view.status.at = NOW
    made._page.board.supervisor = SimpleNamespace()
    made._page._rates.topics = {"default": (42.0, 0.0), "imports": (0.1, 0.0), "reports": (3.2, 0.4)}
    view._chosen = "reports"
    return made


def dead() -> Any:
    made = screen()
    made._views = [view := made._tabs[2]]
    view._groups = [
        Group(Fingerprint("327e9934", "ValueError", "report in shop/reports.py", "customer <n> has no address"), 40, NOW - 9000,
              NOW - 60, {"shop.report"}, {"reports"}),
        Group(Fingerprint("441c8a9a", "ConnectionError", "fetch in shop/bank.py", "bank does not answer"), 12, NOW - 7000,
              NOW - 900, {"shop.bill", "shop.refund"}, {"reports"}),
    ]  # fmt: skip
    view.status.at = NOW
    made._doer.doing = Act("ValueError: customer <n> has no address", ("dead", "retry", "--group", "327e9934"))
    made._doer.question = "Run 40 dead letters in group 327e9934 again?"
    made._notice()
    return made


DRAWINGS: dict[str, tuple[Callable[[], Any], str, str]] = {
    "top-topics": (
        topics, "jobsctl top: topics", "A table of four topics with their jobs by state; email is paused, reports has an alert"
    ),
    "top-dead": (
        dead, "jobsctl top: dead letters", "Two groups of dead letters, and the question whether to run 40 of them again"
    ),
}  # fmt: skip


def draw(name: str) -> str:
    """Return a picture as SVG."""
    make, title, description = DRAWINGS[name]
    with (
        unittest.mock.patch.object(time, "time", return_value=NOW),
        unittest.mock.patch.object(time, "localtime", time.gmtime),
        unittest.mock.patch.object(time, "strftime", side_effect=strftime),
    ):
        console = Console(record=True, width=80, height=16, file=io.StringIO(), force_terminal=True, color_system="truecolor")
        console.print(rendered(make().frame(80, 16)))
        svg = console.export_svg(
            title="", code_format=FORMAT.replace("TITLE", title).replace("DESC", description), unique_id=name
        )
    return "".join(f"{line.rstrip()}\n" for line in svg.splitlines())


_strftime = time.strftime


def strftime(form: str, moment: Any = None) -> str:
    """Return a time of day that is the same everywhere."""
    return _strftime(form, time.gmtime(NOW) if moment is None else moment)


def main() -> None:
    for name in DRAWINGS:
        (PICTURES / f"{name}.svg").write_text(draw(name), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
