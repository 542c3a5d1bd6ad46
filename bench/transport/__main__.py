"""`python -m bench.transport`: drain and enqueue no-op jobs with each transport in turn; ratios to ours.

Every round runs all variants against the same server, each second round in the opposite order; what counts is the median of
the rounds' ratios. `python -m bench.transport.held` measures what matters beside a job that holds the interpreter.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from jobs_core.cli import output
from jobs_core.ids import new_token
from jobs_core.testing.services.rabbitmq import RabbitMQNode
from jobs_core.testing.services.redis import RedisServer

from ..support import ROOT, median
from ..turns.__main__ import ONE_BY_ONE, server

VARIANTS = {
    "redis": {"ours": {}, "redis-py's": {"JOBS_TRANSPORT": "library"}},
    "rabbitmq": {
        "ours": {},
        "without codec": {"BENCH_WITHOUT": "codec"},
        "pika's": {"JOBS_TRANSPORT": "library"},
    },
}
BULK = {"redis": 60_000, "rabbitmq": 30_000}


def side(backend: str, running: RedisServer | RabbitMQNode, environment: dict[str, str]) -> dict[str, float]:
    """Run one variant in a directory of its own."""
    if isinstance(running, RedisServer):
        url = f"redis://127.0.0.1:{running.port}/0?prefix=transport-{new_token(4)}"
    else:
        url = running.url(running.make_vhost())
    with tempfile.TemporaryDirectory(prefix="jobs-transport-") as directory:
        command = [sys.executable, "-m", "bench.transport.side", url, str(ONE_BY_ONE[backend]), str(BULK[backend])]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", **environment}
        done = subprocess.run(command, cwd=directory, env=environment, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            log = Path(directory) / "jobs.log"
            raise SystemExit(f"{environment.get('BENCH_WITHOUT')}: {log.read_text()[-2000:] if log.exists() else ''}")
        return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.transport", description=__doc__)
    parser.add_argument("--backend", action="append", choices=VARIANTS)
    parser.add_argument("--variant", action="append")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = []
    for backend in options.backend or VARIANTS:
        variants = {name: it for name, it in VARIANTS[backend].items() if name == "ours" or name in (options.variant or [name])}
        rounds: list[dict[str, dict[str, float]]] = []
        with server(backend) as running:
            assert running is not None
            for number in range(options.rounds):
                order = list(variants)[:: -1 if number % 2 else 1]
                rounds.append({name: side(backend, running, variants[name]) for name in order})
                print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
        for what in rounds[0]["ours"]:
            for name in variants:
                values = [each[name][what] for each in rounds]
                ratios = [each[name][what] / each["ours"][what] for each in rounds if each["ours"][what]]
                ratio = f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})" if ratios else "–"
                rows.append((backend, what, name, f"{median(values):,.1f}", ratio))
    output.table(["backend", "what", "transport", "median", "ratio to ours"], rows, plain=False)


if __name__ == "__main__":
    main()
