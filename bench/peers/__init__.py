"""Other job systems beside ours: `make bench-peers`, the same jobs, measured the same way, in one interleaved run.

A peer is an entry in peers.py and an adapter in adapters/, a small file that its own virtual environment imports: the
jobs, and how they are enqueued. A broker is an entry in brokers.py. Everything else is the same for all:

    python -m bench.peers drain enqueue          measure, and keep what came out in bench/results/peers.json
    python -m bench.peers kill --only celery     of some peers alone
    python -m bench.peers --broker rabbitmq      of those on one broker alone
    python -m bench.peers table                  write what is kept into docs/benchmarks.md

Every job, of every peer, ours too, appends one record of 24 bytes to a file; what is reported was counted there.
"""
