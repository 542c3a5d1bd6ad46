"""The example of a gallery: every picture gets its thumbnail, and the page shows all of them in order."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from jobs_core import App, Config, set_current_app
from jobs_core.backends.memory import forget
from jobs_core.config import Pool
from jobs_core.ids import new_token
from jobs_core.worker.main import Worker

from ..support.inprocess import as_it_was

EXAMPLE = Path(__file__).parents[2] / "examples" / "thumbnails"


@pytest.fixture
def gallery(monkeypatch):
    with as_it_was():
        monkeypatch.syspath_prepend(str(EXAMPLE))
        yield importlib.import_module("gallery")
    sys.modules.pop("gallery", None)


@pytest.fixture
def app():
    url = f"memory://{new_token()}"
    app = App(Config(backend=url))
    set_current_app(app)
    yield app
    set_current_app(None)
    app.close()
    forget(url)


def paint(folder, count):
    image = pytest.importorskip("PIL.Image")
    for n in range(count):
        image.linear_gradient("L").resize((300, 200)).save(folder / f"{n:03}.png")
    return sorted(folder.glob("*.png"))


def test_a_gallery_shows_a_thumbnail_of_each_picture(gallery, app, tmp_path):
    pictures = paint(tmp_path, 5)
    handle = gallery.make(pictures, tmp_path)
    assert (handle.progress().total, handle.progress().active) == (6, 5)
    Worker(app, "default", Pool(), None, drain=True).run()
    page = handle.result(timeout=5).read_text()
    assert [line.split('"')[1] for line in page.splitlines()[2:]] == [f"{n:03}.jpg" for n in range(5)]
    assert all((tmp_path / f"{n:03}.jpg").stat().st_size for n in range(5))


def test_a_broken_picture_keeps_the_page_back_until_it_is_retried(gallery, app, tmp_path):
    pictures = paint(tmp_path, 3)
    good = pictures[1].read_bytes()
    pictures[1].write_bytes(b"no picture")
    handle = gallery.make(pictures, tmp_path)
    Worker(app, "default", Pool(), None, drain=True).run()
    assert (handle.status(), handle.progress().done, handle.progress().dead) == ("failed", 2, 1)
    pictures[1].write_bytes(good)
    assert handle.retry() == 1
    Worker(app, "default", Pool(), None, drain=True).run()
    assert handle.result(timeout=5).exists()
