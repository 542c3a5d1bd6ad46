"""The measured figures, by measure, in a file of bench/measured/ for each broker, so that a long run may be done in pieces."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .. import kept
from .peers import Peer
from .venvs import versions


def load(broker: str) -> dict[str, Any]:
    return kept.load(f"peers-{broker}")


def begin(measure: str, peers: Sequence[Peer], *, forget: bool) -> None:
    """Record machine and versions, and drop the figures of earlier runs for this measure."""
    for broker in dict.fromkeys(peer.broker for peer in peers):
        record = load(broker)
        record["broker"] = broker
        record["machine"] = {**kept.machine(), **({} if forget else record.get("machine", {}))}
        if forget:
            record[measure] = {}
        found = record.setdefault("versions", {})
        for peer in peers:
            name = peer.packages[0] if peer.packages else "jobs"
            if peer.broker == broker and name not in found:
                found[name] = versions(peer)
        kept.save(f"peers-{broker}", record)


def add(measure: str, peer: Peer, figures: dict[str, float], begun: float, seconds: float) -> None:
    """Keep the figures of the round that was begun at this time, how busy the machine was, and the seconds that it all took."""
    record = load(peer.broker)
    record["machine"]["load after"] = os.getloadavg()[0]
    rows = record.setdefault(measure, {})
    settings = peer.producing if measure in PRODUCING else peer.settings
    row = rows.setdefault(peer.name, {"settings": settings, "figures": {}, "rounds": []})
    for what, value in figures.items():
        row["figures"].setdefault(what, []).append(value)
    row["rounds"].append({"begun": round(begun), "load": os.getloadavg()[0], "seconds": seconds})
    kept.save(f"peers-{peer.broker}", record)


PRODUCING = ("enqueue",)
"""Measures of producers."""
