"""A virtual environment for each set of packages, created once, with the newest releases of the day."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .peers import Peer

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "bench" / ".peers"
OURS = {"redis": ("jobs-redis", "redis", "hiredis"), "rabbitmq": ("jobs-rabbitmq", "pika")}


def environment(peer: Peer) -> Path:
    """Return the directory of the peer's programs."""
    if not peer.packages:
        return Path(sys.executable).parent
    directory = CACHE / peer.packages[0].partition("[")[0]
    ready, wanted = directory / "ready", "\n".join(peer.packages)
    if not ready.exists() or ready.read_text() != wanted:
        print(f"making an environment for {', '.join(peer.packages)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        install = [directory / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", *peer.packages]
        subprocess.run(install, check=True)
        ready.write_text(wanted)
    return directory / "bin"


def fresh(peer: Peer) -> Path:
    """Return what `environment` does, but for us one in which only our packages are, as only a peer's are in its own."""
    if peer.packages:
        return environment(peer)
    directory = CACHE / "jobs"
    if not (directory / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        install = [directory / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*install, "-e", ROOT / "core", "-e", ROOT / "plugins" / "redis_backend"], check=True)
        (directory / "ready").touch()
    return directory / "bin"


def versions(peer: Peer) -> list[str]:
    """Return the installed versions of the packages that a peer names, as `name version`."""
    names = [package.partition("[")[0] for package in peer.packages] or ["jobs-core", *OURS[peer.broker]]
    code = "import sys; from importlib.metadata import version; print(*[f'{n} {version(n)}' for n in sys.argv[1:]], sep='\\n')"
    done = subprocess.run([environment(peer) / "python", "-c", code, *names], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()
