"""The pictures of the documentation are what their script draws."""

import importlib.util
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parent.parent.parent
PICTURES = ROOT / "docs" / "pictures"


def script(name):
    """Import a script of tools/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


together, top, bloat = script("draw_together"), script("draw_top"), script("draw_bloat")
explanation = script("draw_explanation")
session, badges = script("draw_session"), script("draw_badges")
DRAWN = (
    {name: ("draw_together", lambda draw=draw: str(draw())) for name, draw in together.DRAWINGS.items()}
    | {name: ("draw_top", lambda name=name: top.draw(name)) for name in top.DRAWINGS}
    | {name: ("draw_bloat", draw) for name, draw in bloat.DRAWINGS.items()}
    | {name: ("draw_explanation", draw) for name, draw in explanation.DRAWINGS.items()}
    | {name: ("draw_session", draw) for name, draw in session.DRAWINGS.items()}
    | {name: ("draw_badges", draw) for name, draw in badges.DRAWINGS.items()}
)


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_a_picture_is_what_its_script_draws_and_describes_itself(name):
    tool, draw = DRAWN[name]
    drawn = draw()
    assert (PICTURES / f"{name}.svg").read_text(encoding="utf-8") == drawn, f"run python tools/{tool}.py"
    root = ET.fromstring(drawn)
    assert all(root.find(f"{{http://www.w3.org/2000/svg}}{tag}").text for tag in ("title", "desc"))


def test_every_picture_is_drawn_by_a_script():
    assert {path.stem for path in PICTURES.glob("*.svg")} == set(DRAWN)


def test_a_curve_is_drawn_for_each_system_that_was_measured():
    points = [{"minute": n, "jobs": 60_000 * n, "rate": 1000 / n, "cpu": 40.0 * n, "load": 2.0} for n in range(1, 12)]
    root = ET.fromstring(bloat.draw([{"name": "one", "points": points}, {"name": "other", "points": points[:3]}]))
    curves = [path.get("class") for path in root.iter("{http://www.w3.org/2000/svg}path")]
    assert curves.count("curve c0") == curves.count("curve c1") == 3  # in two panels and in the legend
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "one: 1,000 jobs a second, then 91, after 660,000 jobs" in texts


def recording(*events):
    return {"width": 20, "height": 3, "events": [list(event) for event in events]}


def test_a_session_shows_each_line_for_as_long_as_it_was_on_the_screen():
    found, end = session.spans(recording((0.0, "$ "), (1.0, "ls\r\n"), (2.0, "\x1b[31mfile\x1b[0m\r\n"), (3.0, "$ ")))
    texts = {(row, "".join(run.text for run in runs)): times for (row, runs), times in found.items()}
    assert texts[0, "$ ls"][-1][1] == end
    ((begin, _),) = texts[1, "file"]
    assert 2.0 <= begin < 2.0 + 2 * session.MERGED
    assert texts[2, "$"][-1][1] == end
    (run,) = next(runs for (row, runs) in found if row == 1)
    assert run.colour == session.COLOURS["red"]


def test_a_session_escapes_what_it_shows_and_has_a_still_picture():
    drawn = session.draw(recording((0.0, "<a> & b")))
    root = ET.fromstring(drawn)
    assert [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")] == ["<a> & b"]
    assert "prefers-reduced-motion" in drawn
    assert [group.get("class") for group in root.iter("{http://www.w3.org/2000/svg}g")] == ["last"]


def test_the_session_of_the_readme_takes_half_a_minute_and_names_no_directory_of_ours():
    found, end = session.spans(json.loads(session.DATA.read_text()))
    assert 20 < end < 35
    shown = " ".join(run.text for _, runs in found for run in runs)
    assert "/srv/shop/.jobs" in shown
    assert "/tmp" not in shown
