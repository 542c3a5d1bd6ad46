"""A virtual environment for each set of packages, created once, with the newest releases of the day."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from .peers import Peer

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "bench" / ".peers"
OURS = {
    "redis": ("jobs-redis", "redis", "hiredis"),
    "rabbitmq": ("jobs-rabbitmq", "pika"),
    "postgres": ("jobs-postgres", "psycopg", "psycopg-binary"),
}
OURS_MORE = {"postgres": ("psycopg[binary]",)}
"""What we install beside our own packages, as our documentation says."""
PYTHONS = {"postgres": "3.12"}
"""Where a peer needs a newer Python than that of this process, all peers of its broker and we run on it."""


def environment(peer: Peer) -> Path:
    """Return the directory of the peer's programs."""
    python = PYTHONS.get(peer.broker, "")
    if peer.packages:
        return made(peer.packages[0].partition("[")[0], peer.packages, python)
    ours = (f"--editable={ROOT / 'core'}", f"--editable={ROOT / 'plugins' / f'{peer.broker}_backend'}")
    return made(f"jobs-{peer.broker}", (*OURS_MORE.get(peer.broker, ()), *ours), python)


def made(name: str, packages: tuple[str, ...], version: str = "") -> Path:
    """Return the programs of an environment with these packages, on another Python if a version is given."""
    directory = CACHE / name
    ready, wanted = directory / "ready", "\n".join(packages)
    if not ready.exists() or ready.read_text() != wanted:
        print(f"making an environment for {', '.join(packages)}", flush=True)
        subprocess.run([_python(version), "-m", "venv", directory], check=True)
        install = [directory / "bin" / "python", "-m", "pip", "install", "-qq", "--disable-pip-version-check", *packages]
        subprocess.run(install, check=True)
        ready.write_text(wanted)
    return directory / "bin"


def _python(version: str) -> str:
    if not version:
        return sys.executable
    found = subprocess.run([ROOT / "tools" / "find-python.sh", version], capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"this needs Python {version}")
    return found.stdout.strip()


def versions(peer: Peer) -> list[str]:
    """Return the installed versions of the packages that a peer names, as `name version`."""
    names = [re.split(r"\[|<", package)[0] for package in peer.packages] or ["jobs-core", *OURS[peer.broker]]
    code = "import sys; from importlib.metadata import version; print(*[f'{n} {version(n)}' for n in sys.argv[1:]], sep='\\n')"
    done = subprocess.run([environment(peer) / "python", "-c", code, *names], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()
