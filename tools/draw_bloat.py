"""Draw docs/pictures/bloat.svg from bloat.json beside it: `python tools/draw_bloat.py`; a test compares the two.

`python -m bench.peers.bloat` measures, and its `--keep` writes bloat.json. Without that file there is no picture.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
DATA = PICTURES / "bloat.json"

LEFT, RIGHT, TOP, HEIGHT = 80, 640, 44, 190
"""Where each panel begins and ends, and how high it is, in pixels."""

COLOURS = (
    ("#0b5cad", "#79b8ff"),
    ("#a04100", "#f0a860"),
    ("#2c6e1f", "#8fd07f"),
    ("#8a2be2", "#c9a0ff"),
    ("#59636e", "#a5b0bc"),
)
"""Of the lines, on a light and on a dark page."""


def _picture() -> Any:
    """Return the class that the other pictures are drawn with."""
    spec = importlib.util.spec_from_file_location("draw_together", Path(__file__).with_name("draw_together.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Picture


class Panel:
    """Lines over minutes; the marks are those of its values, from bottom to top."""

    def __init__(self, picture: Any, top: int, title: str, minutes: float, marks: Sequence[float], *, powers: bool) -> None:
        self.picture, self.top, self.minutes = picture, top, minutes
        self.low, self.high, self.powers = marks[0], marks[-1], powers
        picture.text(LEFT, top - 12, title)
        for mark in marks:
            y = self.y(mark)
            picture.line((LEFT, y), (RIGHT, y)).set("class", "grid")
            picture.text(8, y + 4, f"{mark:,.0f}", small=True)
        step = next(step for step in (1, 2, 5, 10, 20, 60) if minutes / step <= 8)
        for minute in range(0, int(minutes) + 1, step):
            picture.text(self.x(minute), top + HEIGHT + 18, str(minute), small=True, middle=True)

    def x(self, minute: float) -> int:
        return round(LEFT + (RIGHT - LEFT) * minute / self.minutes)

    def y(self, value: float) -> int:
        low, high = self.low, self.high
        if self.powers:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return round(self.top + HEIGHT * (1 - (min(max(value, low), high) - low) / (high - low)))

    def line(self, number: int, points: Sequence[tuple[float, float]]) -> None:
        path = " L".join(f"{self.x(minute)} {self.y(value)}" for minute, value in points)
        ET.SubElement(self.picture.root, "path", {"d": f"M{path}", "class": f"curve c{number}"})


def draw(kept: Sequence[dict[str, Any]]) -> str:
    """Draw a line for each system: what is left of the first minute's rate, and the CPU time of a job."""
    minutes = max(point["minute"] for each in kept for point in each["points"])
    picture = _picture()(
        660,
        2 * HEIGHT + 166 + 20 * len(kept),
        "Draining beside a transaction that stays open",
        "Above, the jobs of each minute in percent of the first minute's; below, the CPU time of workers and server for a job. "
        + "; ".join(_told(each) for each in kept)
        + ".",
    )
    style = picture.root.find("style")
    light = "".join(f".c{n} {{ stroke: {colours[0]}; }}\n" for n, colours in enumerate(COLOURS))
    dark = "".join(f".c{n} {{ stroke: {colours[1]}; }}\n" for n, colours in enumerate(COLOURS))
    style.text += f".curve {{ fill: none; stroke-width: 2; }}\n.grid {{ stroke: #59636e; stroke-opacity: 0.25; }}\n{light}"
    style.text += f"@media (prefers-color-scheme: dark) {{\n{dark}}}\n"
    most = max(point["cpu"] for each in kept for point in each["points"])
    marks = [10.0**power for power in range(1, math.ceil(math.log10(most)) + 1)]
    share = Panel(picture, TOP, "jobs a second, % of the first minute", minutes, (0, 25, 50, 75, 100, 125), powers=False)
    below = TOP + HEIGHT + 60
    cpu = Panel(picture, below, "CPU time of workers and server per job, µs", minutes, marks, powers=True)
    picture.text(RIGHT, below + HEIGHT + 36, "minutes", small=True)
    picture.root[-1].set("text-anchor", "end")
    for number, each in enumerate(kept):
        first = each["points"][0]["rate"]
        share.line(number, [(point["minute"], 100 * point["rate"] / first) for point in each["points"]])
        cpu.line(number, [(point["minute"], point["cpu"]) for point in each["points"]])
        y = below + HEIGHT + 52 + 20 * number
        ET.SubElement(picture.root, "path", {"d": f"M{LEFT} {y} L{LEFT + 28} {y}", "class": f"curve c{number}"})
        picture.text(LEFT + 38, y + 5, _told(each), small=True)
    return str(picture)


def _told(each: dict[str, Any]) -> str:
    first, last = each["points"][0], each["points"][-1]
    return f"{each['name']}: {first['rate']:,.0f} jobs a second, then {last['rate']:,.0f}, after {last['jobs']:,} jobs"


DRAWINGS = {"bloat": lambda: draw(json.loads(DATA.read_text()))} if DATA.exists() else {}


def main() -> None:
    (PICTURES / "bloat.svg").write_text(DRAWINGS["bloat"](), encoding="utf-8")
    print("1 picture written", file=sys.stderr)


if __name__ == "__main__":
    main()
