"""Draw the pictures of docs/together.md: `python tools/draw_together.py` writes docs/pictures/*.svg; tests compare them."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree as ET

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"

STYLE = """
svg { background: #ffffff; }
text { font: 14px system-ui, sans-serif; fill: #1f2328; }
.small { font-size: 12px; fill: #59636e; }
.box { fill: #f6f8fa; stroke: #59636e; }
.a { fill: #d7e8fb; stroke: #0b5cad; }
.b { fill: #fbe3cf; stroke: #a04100; }
.c { fill: #dcefd9; stroke: #2c6e1f; }
.slot { fill: none; stroke: #59636e; stroke-dasharray: 4 3; }
.line { stroke: #59636e; fill: none; }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117; }
  text { fill: #e6edf3; }
  .small { fill: #a5b0bc; }
  .box { fill: #1c232c; stroke: #a5b0bc; }
  .a { fill: #12355c; stroke: #79b8ff; }
  .b { fill: #54300f; stroke: #f0a860; }
  .c { fill: #1d4418; stroke: #8fd07f; }
  .slot, .line { stroke: #a5b0bc; }
}
"""


class Picture:
    """An SVG of a fixed size in pixels, which scales to the width of the page."""

    def __init__(self, width: int, height: int, title: str, description: str) -> None:
        self.root = ET.Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {width} {height}", role="img")
        self.root.set("width", str(width))
        ET.SubElement(self.root, "title").text = title
        ET.SubElement(self.root, "desc").text = description
        ET.SubElement(self.root, "style").text = STYLE
        arrow = ET.SubElement(ET.SubElement(self.root, "defs"), "marker", id="arrow", viewBox="0 0 8 8", refX="7", refY="4")
        arrow.set("markerWidth", "8")
        arrow.set("markerHeight", "8")
        arrow.set("orient", "auto")
        ET.SubElement(arrow, "path", {"d": "M0 0 L8 4 L0 8", "class": "line"})

    def text(self, x: int, y: int, words: str, *, small: bool = False, middle: bool = False) -> None:
        element = ET.SubElement(self.root, "text", x=str(x), y=str(y))
        if small:
            element.set("class", "small")
        if middle:
            element.set("text-anchor", "middle")
        element.text = words

    def box(self, x: int, y: int, width: int, height: int, kind: str, words: str = "", below: str = "") -> None:
        box = ET.SubElement(self.root, "rect", x=str(x), y=str(y), width=str(width), height=str(height), rx="4")
        box.set("class", kind)
        middle = y + height // 2 + 5
        if words:
            self.text(x + width // 2, middle - (8 if below else 0), words, middle=True)
        if below:
            self.text(x + width // 2, middle + 10, below, small=True, middle=True)

    def line(self, *points: tuple[int, int]) -> ET.Element:
        path = " L".join(f"{x} {y}" for x, y in points)
        return ET.SubElement(self.root, "path", {"d": f"M{path}", "class": "line"})

    def arrow(self, *points: tuple[int, int]) -> None:
        self.line(*points).set("marker-end", "url(#arrow)")

    def __str__(self) -> str:
        ET.indent(self.root)
        return ET.tostring(self.root, encoding="unicode") + "\n"


def limits() -> Picture:
    picture = Picture(
        640,
        230,
        "A limit on concurrency",
        "Jobs without limits stand in the plain line of their topic. Jobs with the same limits stand in a line of their own, "
        "of which only the first job is looked at. A reservation takes a slot; the line is closed while no slot is free.",
    )
    picture.text(10, 24, "topic payments")
    picture.text(10, 60, "plain line", small=True)
    for n in range(3):
        picture.box(250 - 52 * n, 42, 44, 28, "box", "job")
    picture.text(10, 110, "line of stripe:acme", small=True)
    for n in range(2):
        picture.box(250 - 52 * n, 92, 44, 28, "a", "job")
    picture.text(10, 160, "line of stripe:beta", small=True)
    for n in range(3):
        picture.box(250 - 52 * n, 142, 44, 28, "b", "job")
    picture.arrow((300, 56), (380, 56))
    picture.arrow((300, 106), (380, 106))
    picture.arrow((300, 156), (336, 156))
    picture.box(340, 146, 84, 20, "slot", "")
    picture.text(382, 161, "closed: full", small=True, middle=True)
    picture.text(440, 24, "reserved by workers")
    picture.box(390, 42, 44, 28, "box", "job")
    picture.text(470, 110, "1 of 2 slots of stripe:acme", small=True)
    picture.box(390, 92, 30, 28, "a", "job")
    picture.box(426, 92, 30, 28, "slot")
    picture.text(510, 161, "2 of 2 slots", small=True)
    picture.box(432, 142, 30, 28, "b", "job")
    picture.box(468, 142, 30, 28, "b", "job")
    picture.text(
        10, 208, "A slot is the reservation itself: it is free when the reservation ends, however it ends.", small=True
    )
    return picture


def fairness() -> Picture:
    picture = Picture(
        640,
        200,
        "The turn of a fair topic",
        "Each key has a line. Workers take one job of each key in turn, so a key with many jobs delays another key's first job "
        "by one job.",
    )
    rows = [("acme", "a", 6), ("beta", "b", 2), ("(no key)", "c", 1)]
    for row, (key, kind, jobs) in enumerate(rows):
        y = 20 + 44 * row
        picture.text(10, y + 19, key)
        for n in range(jobs):
            picture.box(264 - 36 * n, y, 30, 28, kind, str(n + 1))
        picture.line((300, y + 14), (336, y + 14), (336, 78))
    picture.arrow((336, 78), (366, 78))
    picture.text(400, 40, "order in which workers take them", small=True)
    order = [("a", "1"), ("b", "1"), ("c", "1"), ("a", "2"), ("b", "2"), ("a", "3"), ("a", "4")]
    for n, (kind, number) in enumerate(order):
        picture.box(372 + 36 * n, 64, 30, 28, kind, number)
    picture.text(10, 180, "With max_per_key, a key also has slots, as a limit has.", small=True)
    return picture


def flow() -> Picture:
    picture = Picture(
        680,
        230,
        "A flow",
        "charge comes first, print_label and send_mail wait for it; they are the body. tell_us is after all of them: it is the "
        "finale, which begins when the body has ended.",
    )
    picture.box(10, 40, 440, 150, "slot")
    picture.text(20, 30, "body")
    picture.box(480, 40, 180, 150, "slot")
    picture.text(490, 30, "finale")
    picture.box(30, 90, 110, 44, "c", "charge", "done")
    picture.box(200, 58, 110, 44, "a", "print_label", "ready")
    picture.box(330, 124, 110, 44, "b", "send_mail", "waiting")
    picture.arrow((140, 106), (170, 106), (170, 80), (196, 80))
    picture.arrow((140, 120), (170, 120), (170, 146), (326, 146))
    picture.arrow((310, 80), (384, 80), (384, 120))
    picture.box(500, 90, 140, 44, "b", "tell_us", "after all")
    picture.arrow((450, 112), (496, 112))
    picture.text(
        10, 216, "A member waits until those that it is after have ended; their results may be its arguments.", small=True
    )
    return picture


DRAWINGS = {"limits": limits, "fairness": fairness, "flow": flow}


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    for name, draw in DRAWINGS.items():
        (PICTURES / f"{name}.svg").write_text(str(draw()), encoding="utf-8")
    print(f"{len(DRAWINGS)} pictures written", file=sys.stderr)


if __name__ == "__main__":
    main()
