"""Paint pictures to try the gallery with: `python paint.py FOLDER COUNT`."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    for n in range(int(sys.argv[2])):
        Image.linear_gradient("L").rotate(n * 7).resize((1200, 800)).save(folder / f"{n:03}.png")
    print(f"{sys.argv[2]} pictures in {folder}")
