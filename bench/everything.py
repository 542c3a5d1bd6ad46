"""Measure everything that docs/benchmarks.md shows of a session: `python -m bench.everything [PART ...]`, or `make bench-all`.

The parts run one after the other, each in a process of its own, and each writes its raw figures into bench/measured/ and its
tables into the page as soon as it is done. A part that fails does not end the run. Let nothing else run on the machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from typing import NamedTuple

from .support import ROOT


class Part(NamedTuple):
    command: str
    minutes: float
    """About how long it takes on two cores."""


PARTS = {
    "ours": Part("bench --keep --rounds 3", 8),
    "redis": Part("bench.peers --broker redis drain enqueue latency cold memory kill", 17),
    "rabbitmq": Part("bench.peers --broker rabbitmq --rounds 2", 8),
    "postgres": Part("bench.peers --broker postgres --rounds 2", 7),
    "api": Part("bench.api --keep", 0.5),
    "features": Part("bench.peers --broker redis many group results limit rate", 5),
    "web": Part("bench.web --keep", 9),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.everything", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all, in this order)")
    options = parser.parse_args()
    if unknown := {*options.parts} - {*PARTS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    wanted = {name: PARTS[name] for name in options.parts or PARTS}
    failed = []
    print(f"about {sum(part.minutes for part in wanted.values()):.0f} min; load {os.getloadavg()[0]:.1f}", flush=True)
    for name, part in wanted.items():
        print(f"\n== {name}: about {part.minutes:g} min", flush=True)
        begin = time.monotonic()
        if subprocess.run([sys.executable, "-m", *part.command.split()], cwd=ROOT, check=False).returncode:
            failed.append(name)
        print(f"== {name}: {(time.monotonic() - begin) / 60:.1f} min{', FAILED' if name in failed else ''}", flush=True)
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall done", flush=True)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
