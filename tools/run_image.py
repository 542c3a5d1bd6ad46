"""Run an unpacked image as a container engine would: read-only, as its user, with memory for /run/jobs and /tmp.

tools/image-steps.sh calls this as process 1 of new namespaces: python3 tools/run_image.py ROOT CONFIG APPLICATION
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

CHROOT = shutil.which("chroot", path="/usr/sbin:/usr/bin") or "chroot"

PATIENCE = 120.0
"""Seconds for each thing to happen."""


class Container:
    """A root file system, and the image's configuration."""

    def __init__(self, root: Path, config: Path, application: Path) -> None:
        document = json.loads(config.read_text())
        self.config = document["OCIv1"]["config"]
        self.health = document["Docker"]["config"]["Healthcheck"]["Test"]
        self._root = root
        self.environment = dict(entry.split("=", 1) for entry in self.config["Env"])
        self._mount("--make-rprivate", "/")
        self._mount("--bind", str(root), str(root))
        self._mount("-t", "proc", "proc", f"{root}/proc")
        self._mount("--bind", "/dev", f"{root}/dev")
        for path in ("run/jobs", "tmp", "var/lib/jobs"):  # a volume of SQLite takes its owner from the image, as Docker does
            self._mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", f"{root}/{path}")
        self._mount("--bind", str(application), f"{root}/srv/app")
        self._mount("-o", "remount,bind,ro", f"{root}/srv/app")
        self._mount("-o", "remount,bind,ro", str(root))

    @staticmethod
    def _mount(*arguments: str) -> None:
        subprocess.run(["mount", *arguments], check=True)

    def start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        """Start a command as the image's user, in its directory."""
        user, _, group = self.config["User"].partition(":")
        inside = [CHROOT, f"--userspec={user}:{group}", "--groups=", self._root, "env", "-C", self.config["WorkingDir"]]
        return subprocess.Popen(
            [*inside, *command], env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def run(self, *command: str, code: int = 0) -> str:
        """Run a command to its end; return what it printed."""
        process = self.start(command)
        said = process.communicate(timeout=PATIENCE)[0]
        assert process.returncode == code, f"{command} ended with {process.returncode}: {said}"
        return said


BACKENDS = {
    "SQLite": {"JOBS_BACKEND": "sqlite:////var/lib/jobs/jobs.db"},
    "ZeroMQ": {
        "JOBS_BACKEND": "zmq+tcp://127.0.0.1:7788",
        "JOBS_BROKER__EMBEDDED": "true",
        "JOBS_BROKER__STORE": "sqlite:////var/lib/jobs/broker.db",
    },
}
"""Those that need no other container, with the variables of their Compose files."""


def main(root: Path, config: Path, application: Path) -> None:
    container = Container(root, config, application)
    assert container.config["User"] == "10001:10001"
    assert "Read-only file system" in container.run("sh", "-c", "touch /etc/x /srv/app/x 2>&1; true")
    assert "uid=10001(jobs)" in container.run("id")
    plugins = container.run("jobsctl", "plugins")
    assert all(f"jobs-{name} " in plugins for name in ("redis", "rabbitmq", "postgres", "zeromq")), plugins
    print("image: runs as 10001 on a read-only root, with its plugins")
    for name, variables in BACKENDS.items():
        container.environment.update(variables)
        run_a_job(container, name)


def run_a_job(container: Container, backend: str) -> None:
    """Start, wait until the image is healthy, let a job run, and stop."""
    health = container.health[1:] if container.health[0] == "CMD" else ["sh", "-c", container.health[1]]
    container.run(*health, code=3)  # nothing runs yet
    supervisor = container.start(container.config["Cmd"])
    end = time.monotonic() + PATIENCE
    while "idle" not in _health(container, health):  # a worker that serves
        assert supervisor.poll() is None, supervisor.communicate()[0]
        assert time.monotonic() < end, "no worker served"
        time.sleep(0.5)
    job = container.run("python3", "shop.py").split()[-1]
    while container.run("jobsctl", "list", "email").strip():  # until the job is reserved; a stop then waits for its end
        assert time.monotonic() < end, "no worker took the job"
        time.sleep(0.5)
    supervisor.send_signal(getattr(signal, container.config.get("StopSignal", "SIGTERM")))
    said = supervisor.communicate(timeout=PATIENCE)[0]
    assert supervisor.returncode == 0, said
    assert "to ada@example.com: Your order is on its way" in said, said
    print(f"image: {backend}: healthy, ran job {job}, and stopped with exit code 0")


def _health(container: Container, command: Sequence[str]) -> str:
    process = container.start(command)
    said = process.communicate(timeout=PATIENCE)[0]
    return said if process.returncode == 0 else ""


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
