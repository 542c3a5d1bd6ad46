"""Make a gallery of a folder's pictures, and show how far it is: `python make.py FOLDER`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
from gallery import make

if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve()
    gallery = folder / "gallery"
    gallery.mkdir(exist_ok=True)
    handle = make(sorted(folder.glob("*.png")), gallery)
    progress = handle.progress()
    with click.progressbar(length=progress.total, label="gallery") as bar:
        while progress.ended_at is None and not progress.dead:
            time.sleep(0.1)
            progress = handle.progress()
            bar.update(progress.done - bar.pos)
    if progress.dead:
        sys.exit(f"{progress.dead} pictures failed: `jobsctl flow show {progress.id}` names them, `flow retry` tries again")
    print(f"{progress.done - 1} thumbnails in {handle.result().name}")
