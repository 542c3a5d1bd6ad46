"""The pictures of the documentation are what their script draws."""

import importlib.util
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
DRAWN = (
    {name: ("draw_together", lambda draw=draw: str(draw())) for name, draw in together.DRAWINGS.items()}
    | {name: ("draw_top", lambda name=name: top.draw(name)) for name in top.DRAWINGS}
    | {name: ("draw_bloat", draw) for name, draw in bloat.DRAWINGS.items()}
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
