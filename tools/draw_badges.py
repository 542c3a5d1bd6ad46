"""Draw docs/pictures/badges.svg from what the packages say of themselves; a test compares the two."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "pictures" / "badges.svg"
CHARACTER, PADDING, HEIGHT, GAP = 6.6, 7, 20, 6
"""The width of a character at a font size of 11, and the spaces around texts, in pixels."""


def facts() -> list[tuple[str, str]]:
    """Return what the badges say, each as a name and a value."""
    spec = importlib.util.spec_from_file_location("release", ROOT / "tools" / "release.py")
    assert spec
    assert spec.loader
    release: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(release)
    about = release.project(ROOT / "core")
    classifiers = about["classifiers"]
    pythons = [
        each.rpartition(" ")[2] for each in classifiers if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", each)
    ]
    settings = release.tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (system,) = [each.rpartition(" ")[2] for each in classifiers if each.startswith("Operating System")]
    return [
        ("version", release.version(ROOT)),
        ("python", f"{pythons[0]} – {pythons[-1]}"),
        ("system", system),
        ("mypy", "strict" if settings["tool"]["mypy"]["strict"] else "on"),
        ("licence", about["license"]),
    ]


def draw() -> str:
    """Return all badges side by side, as SVG."""
    x, parts, said = 0.0, [], facts()
    for name, value in said:
        left, right = (round(len(text) * CHARACTER + 2 * PADDING) for text in (name, value))
        parts += [
            f'<rect x="{x:g}" width="{left}" height="{HEIGHT}" fill="#444c56"/>',
            f'<rect x="{x + left:g}" width="{right}" height="{HEIGHT}" fill="#0b5cad"/>',
            f'<text x="{x + left / 2:g}" y="14">{escape(name)}</text>',
            f'<text x="{x + left + right / 2:g}" y="14">{escape(value)}</text>',
        ]
        x += left + right + GAP
    width = round(x - GAP)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}" viewBox="0 0 {width} {HEIGHT}">'
    described = ", ".join(f"{name} {value}" for name, value in said)
    style = "text{font:11px ui-monospace,Menlo,Consolas,monospace;fill:#fff;text-anchor:middle}"
    return "\n".join(
        [head, "<title>Facts</title>", f"<desc>{escape(described)}</desc>", f"<style>{style}</style>", *parts, "</svg>\n"]
    )


DRAWINGS = {"badges": draw}


if __name__ == "__main__":
    sys.exit(PICTURE.write_text(draw(), encoding="utf-8") and 0)
