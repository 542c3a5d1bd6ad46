"""Other job systems beside ours: `make bench-peers`, the same jobs, measured the same way, in one interleaved run.

A peer is an entry in peers.py and an adapter in adapters/, a small file that its own virtual environment imports: the
jobs, and how they are enqueued. A broker is an entry in brokers.py. Everything else is the same for all:

    python -m bench.peers drain enqueue          measure, keep the figures in bench/measured/, and write docs/benchmarks.md
    python -m bench.peers kill --only celery     measure some peers alone
    python -m bench.peers --broker rabbitmq      measure the peers on one broker alone
    python -m bench.peers.bloat                  measure those on PostgreSQL beside a transaction that stays open
    python -m bench.peers --try 0.01             see whether every row runs; what it finds is not kept for the page
    python -m bench.page                         write the kept figures into docs/benchmarks.md and the README

Every job of every peer (ours included) appends one record of 24 bytes to a file; reports count these records.
"""
