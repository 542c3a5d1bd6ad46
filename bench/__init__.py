"""Benchmarks: `make bench`. Each figure is the median of several rounds, beside a bare loop of the same storage calls.

Nothing here is a test: figures depend on the machine, ratios within one run less so.
"""

import os

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is measured starts as it does when installed: with its bytecode
