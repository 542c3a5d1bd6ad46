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


together, top = script("draw_together"), script("draw_top")
DRAWN = {name: ("draw_together", lambda draw=draw: str(draw())) for name, draw in together.DRAWINGS.items()} | {
    name: ("draw_top", lambda name=name: top.draw(name)) for name in top.DRAWINGS
}


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_a_picture_is_what_its_script_draws_and_describes_itself(name):
    tool, draw = DRAWN[name]
    drawn = draw()
    assert (PICTURES / f"{name}.svg").read_text(encoding="utf-8") == drawn, f"run python tools/{tool}.py"
    root = ET.fromstring(drawn)
    assert all(root.find(f"{{http://www.w3.org/2000/svg}}{tag}").text for tag in ("title", "desc"))


def test_every_picture_is_drawn_by_a_script():
    assert {path.stem for path in PICTURES.glob("*.svg")} == set(DRAWN)
