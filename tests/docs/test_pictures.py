"""The pictures of the documentation are what their script draws."""

import importlib.util
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parent.parent.parent
_spec = importlib.util.spec_from_file_location("draw_together", ROOT / "tools" / "draw_together.py")
assert _spec is not None
assert _spec.loader is not None
draw_together = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(draw_together)


@pytest.mark.parametrize("name", sorted(draw_together.DRAWINGS))
def test_a_picture_is_what_its_script_draws_and_describes_itself(name):
    drawn = str(draw_together.DRAWINGS[name]())
    assert (draw_together.PICTURES / f"{name}.svg").read_text(encoding="utf-8") == drawn, "run python tools/draw_together.py"
    root = ET.fromstring(drawn)
    assert all(root.find(f"{{http://www.w3.org/2000/svg}}{tag}").text for tag in ("title", "desc"))
