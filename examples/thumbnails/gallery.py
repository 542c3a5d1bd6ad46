"""A gallery of pictures: a thumbnail of each, and then one page that shows them all."""

from __future__ import annotations

import html
from pathlib import Path

from PIL import Image

from jobs_core import WorkHandle, group, job

WIDTH = 160


@job(timeout="1m", store_result=True)
def thumb(picture: Path, into: Path) -> Path:
    """Write a small copy of one picture, and return its path."""
    small = into / f"{picture.stem}.jpg"
    with Image.open(picture) as image:
        image.thumbnail((WIDTH, WIDTH))
        image.convert("RGB").save(small)
    return small


@job(store_result=True)
def page(thumbs: list[Path], into: Path) -> Path:
    """Write the page of all thumbnails, in the order of the pictures."""
    index = into / "index.html"
    shown = "\n".join(f'<img src="{html.escape(path.name)}" alt="{html.escape(path.stem)}">' for path in thumbs)
    index.write_text(f"<!doctype html>\n<title>Gallery</title>\n{shown}\n")
    return index


def make(pictures: list[Path], into: Path) -> WorkHandle[Path]:
    """Enqueue a gallery; its result is the page."""
    return group(thumb.call(picture, into) for picture in pictures).then(page.step(into)).enqueue("gallery")
