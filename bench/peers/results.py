"""The measured figures, kept by broker and measure in bench/results/peers.json, so that a long run may be done in pieces."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .peers import Peer
from .venvs import versions

FILE = Path(__file__).parents[1] / "results" / "peers.json"


def load() -> dict[str, Any]:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def _save(kept: dict[str, Any]) -> None:
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(kept, indent=1) + "\n")


def begin(measure: str, peers: Sequence[Peer], *, forget: bool) -> None:
    """Record the versions, and drop the figures of earlier runs for these measures."""
    kept = load()
    for peer in peers:
        of_broker = kept.setdefault(peer.broker, {})
        if forget:
            of_broker.setdefault(measure, {}).pop(peer.name, None)
        of_broker.setdefault("versions", {})[peer.packages[0] if peer.packages else "jobs"] = versions(peer)
    _save(kept)


def add(measure: str, peer: Peer, figures: dict[str, float], begun: float = 0.0) -> None:
    """Keep the figures of the round that was begun at this time, and how busy the machine was."""
    kept = load()
    rows = kept.setdefault(peer.broker, {}).setdefault(measure, {})
    row = rows.setdefault(peer.name, {"settings": peer.settings or next(iter(peer.workers), ""), "figures": {}})
    for what, value in figures.items():
        row["figures"].setdefault(what, []).append(value)
    row.setdefault("rounds", []).append({"begun": begun, "load": os.getloadavg()[0]})
    _save(kept)
