"""Run `python -m bench.peers [MEASURE ...] [--broker NAME] [--only TEXT] [--rounds N]`, or `table`; see the package."""

from __future__ import annotations

import argparse
import signal
import sys
import time

from . import results, table
from .brokers import BROKERS
from .measures import MEASURES, ROUNDS
from .peers import PEERS, Peer
from .venvs import environment


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=f"of {', '.join(MEASURES)}, table (default: all)")
    parser.add_argument("--broker", choices=BROKERS, help="peers on this broker alone")
    parser.add_argument("--only", action="append", default=[], help="peers whose name contains this; may be repeated")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each, interleaved (default 3)")
    parser.add_argument("--more", action="store_true", help="keep what earlier runs found, and add to it")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # end with us all that was started
    wanted = options.measures or [*MEASURES, "table"]
    for name in wanted:
        if name == "table":
            table.write()
            continue
        if name not in MEASURES:
            parser.error(f"{name!r} is none of {', '.join(MEASURES)}, table")
        peers = [
            peer
            for peer in PEERS
            if name in peer.measures
            and options.broker in (None, peer.broker)
            and (not options.only or any(text in peer.name for text in options.only))
        ]
        peers = [peer for peer in peers if _has_environment(peer)]
        results.begin(name, peers, forget=not options.more)
        for _ in range(min(options.rounds, ROUNDS.get(name, options.rounds))):
            begun = time.time()
            for peer in peers:
                try:
                    figures = MEASURES[name](peer)
                except Exception as error:  # one peer's failure does not end the run; the table shows a gap
                    print(f"{name} on {peer.broker}, {peer.name}: {error}", flush=True)
                    continue
                results.add(name, peer, figures, begun)
                told = (f"{what} {value:,.2f}" for what, value in figures.items())
                print(f"{name} on {peer.broker}, {peer.name}:", *told, flush=True)


def _has_environment(peer: Peer) -> bool:
    try:
        environment(peer)
    except RuntimeError as error:
        print(f"{peer.name} on {peer.broker} is left out: {error}", flush=True)
        return False
    return True


if __name__ == "__main__":
    main()
