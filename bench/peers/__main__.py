"""Run `python -m bench.peers [MEASURE ...] [--broker NAME] [--only TEXT] [--rounds N]`; see the package."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from .. import kept, page
from . import results
from .brokers import BROKERS
from .measures import MEASURES, ROUNDS, SECONDS, TOGETHER
from .peers import PEERS, Peer
from .venvs import environment

Outcome = tuple[Peer, dict[str, float] | str, float]
"""A peer, its figures or why there are none, and the seconds that it took."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=f"of {', '.join(MEASURES)} (default: all)")
    parser.add_argument("--broker", choices=BROKERS, help="peers on this broker alone")
    parser.add_argument("--only", action="append", default=[], help="peers whose name contains this; may be repeated")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each, interleaved (default 3)")
    parser.add_argument("--more", action="store_true", help="keep what earlier runs found, and add to it")
    parser.add_argument("--try", type=float, default=1.0, metavar="SHARE", dest="share", help="with this share of the jobs")
    options = parser.parse_args()
    if options.share != 1.0:  # not for the page
        kept.DIRECTORY = kept.DIRECTORY.parent / "results" / "tried"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # end with us all that was started
    if unknown := {*options.measures} - {*MEASURES}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(MEASURES)}")
    runs = {
        name: [
            _smaller(peer, options.share)
            for peer in PEERS
            if name in peer.measures
            and options.broker in (None, peer.broker)
            and (not options.only or any(text in peer.name for text in options.only))
            and _has_environment(peer)
        ]
        for name in options.measures or MEASURES
    }
    rounds = {name: min(options.rounds, ROUNDS.get(name, options.rounds)) for name in runs}
    seconds = sum(rounds[name] * len(peers) * SECONDS[name] for name, peers in runs.items())
    print(f"{sum(map(len, runs.values()))} rows, about {seconds / 60:.0f} min", flush=True)
    for name, peers in runs.items():
        results.begin(name, peers, forget=not options.more)
        for _ in range(rounds[name]):
            begun = time.time()
            for peer, found, took in _measured(name, peers):
                if isinstance(found, str):  # one peer's failure does not end the run; the table shows a gap
                    print(f"{name} on {peer.broker}, {peer.name}: FAILED: {found}", flush=True)
                    continue
                results.add(name, peer, found, begun, took)
                told = (f"{what} {value:,.2f}" for what, value in found.items())
                print(f"{name} on {peer.broker}, {peer.name} ({took:.0f} s):", *told, flush=True)
    if options.share == 1.0:
        page.write()


def _measured(name: str, peers: list[Peer]) -> Iterator[Outcome]:
    def measured(peer: Peer) -> Outcome:
        begin = time.perf_counter()
        try:
            found: dict[str, float] | str = MEASURES[name](peer)
        except Exception as error:
            found = str(error)
        return peer, found, time.perf_counter() - begin

    if name in TOGETHER:
        with ThreadPoolExecutor(TOGETHER[name]) as pool:
            yield from pool.map(measured, peers)
    else:
        yield from map(measured, peers)


def _smaller(peer: Peer, share: float) -> Peer:
    sizes = {size: max(10, round(share * getattr(peer, size))) for size in ("drain", "enqueue", "bulk") if getattr(peer, size)}
    return replace(peer, **sizes)


def _has_environment(peer: Peer) -> bool:
    try:
        environment(peer)
    except RuntimeError as error:
        print(f"{peer.name} on {peer.broker} is left out: {error}", flush=True)
        return False
    return True


if __name__ == "__main__":
    main()
