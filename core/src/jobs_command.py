"""The `jobs` command's entry point. It stands outside the package to be able to say that the package is hidden:
a file called jobs_core.py in the application's directory takes its place on the import path."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path


def main() -> None:
    """Run the command line, or say what hides it."""
    spec = importlib.util.find_spec("jobs_core")
    origin = Path(spec.origin).resolve() if spec and spec.origin else None
    expected = Path(__file__).resolve().parent / "jobs_core" / "__init__.py"
    if origin != expected and (origin is None or not (origin.parent / "hookspecs.py").is_file()):
        hider = origin or "something without a file"
        print(
            f"jobs: {hider} hides the installed package jobs_core: rename it (a module of your own may be called "
            "jobs.py or tasks.py, not jobs_core.py)",
            file=sys.stderr,
        )
        raise SystemExit(2)
    importlib.import_module("jobs_core.cli.main").main()
