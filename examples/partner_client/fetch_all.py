"""Enqueue the pages of some accounts: `python fetch_all.py acme umbrella`."""

from __future__ import annotations

import sys

from client import fetch

if __name__ == "__main__":
    handles = fetch.enqueue_many((account, page) for account in sys.argv[1:] for page in range(10))
    print(f"{len(handles)} pages enqueued")
