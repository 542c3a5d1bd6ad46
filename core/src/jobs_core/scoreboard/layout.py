"""The bytes of a worker's scoreboard file, `run_dir/workers/<owner>`. Little-endian; another layout has another MAGIC.

=========  =====  ==================================================================================
offset     size   content
=========  =====  ==================================================================================
0          256    header: the worker's identity, state, heartbeat and counters
256        640·n  statistics, a row for each topic and job that ran here (n = ROWS); the last rows but one are those of OPS,
                  without outcomes, which older readers take for empty rows
41,216     280·e  entries, one for each job that has started and is not settled (e = `entries(concurrency)`), state
                  byte first: FREE, RUNNING, or ENDED and not yet settled
=========  =====  ==================================================================================

An entry's state byte is written last when a job starts and first when it is settled, so that a reader that sees it set
can read the whole entry. The file is allocated before it is mapped: a sparse map on a full disk ends in SIGBUS.
"""

from __future__ import annotations

import enum
import struct

MAGIC = b"JOBSBRD2"

HEADER = struct.Struct("<8sIIIBBBxddQQQQQ48s96s")
"""magic, pid, generation, slots, phase, mode, charge, started_at (unix), beat (monotonic), done, failed, in_flight,
process start time (clock ticks since boot), taken, pool, owner."""

HEADER_SIZE = 256
PID, PHASE, CHARGE = 8, 20, 22
BEAT, COUNTERS = 32, 40
OWNER = 128

ROWS = 64
OPS = ("push", "reserve", "settle", "heartbeat")
"""The calls to the backend whose durations a worker counts, each in a row of its own: the name of the "job" in it."""
NAMED = ROWS - 1 - len(OPS)
"""Rows for topics and jobs by name; the last row of all is shared by those that do not fit."""
ROW_SIZE = 640
ROW_NAMES = struct.Struct("<96s200s")
OUTCOMES = ("done", "retry", "dead", "cancelled", "deferred", "stale")
UNRUN = "(not run)"
"""The job's name in the row of jobs that ended without a run."""

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the histograms, seconds; one more bucket counts everything beyond."""
ROW_FIGURES = struct.Struct(f"<{len(OUTCOMES)}Q2d{2 * (len(BUCKETS) + 1)}QQ")
"""runs by outcome, seconds run and seconds waited in all, the histogram of each, runs that were too fast (0 from
older code). In a row of OPS, only the seconds run and their histogram, with the bounds of OP_BUCKETS."""

OP_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histograms of OPS, seconds: as many as in BUCKETS."""

EXEMPLAR = struct.Struct("<16sd")
"""The trace id of one run, and its seconds: the slowest one of the last minute that has a trace. Zeros for none."""

LONGEST = struct.Struct("<2e")
"""The longest run and the longest wait of one minute, seconds. A row has two: of the last even and of the last odd minute."""
MOST_SECONDS = 65_000.0
"""The longest run or wait that LONGEST can hold."""

ENTRIES = HEADER_SIZE + ROWS * ROW_SIZE
ENTRY_SIZE = 280
ENTRY = struct.Struct("<I3xdd128s64s64s")
"""The fields after the state byte.

Earlier deaths of a worker that ran the job, started (monotonic), deadline (monotonic, 0 for none), job id, job, topic.
"""

FREE, RUNNING, ENDED = 0, 1, 2

MOST_ENDED = 1000
"""Number of entries for jobs that have ended and are not settled: as many as are reserved ahead, see `LARGEST_BATCH`."""

MODES = ("sync", "threads", "async")


class Phase(enum.IntEnum):
    """The phase of a worker's life."""

    STARTING = 0
    STANDBY = 1  # ready, waits for its predecessor's end
    SERVING = 2
    QUIET = 3
    STOPPING = 4
    OFFLINE = 5  # serving, but its backend does not answer


def entries(slots: int) -> int:
    """Return the number of entries for a worker with `slots` slots; jobs that find no free entry share the last one."""
    return slots + max(slots, MOST_ENDED) + 1


def size(slots: int) -> int:
    """Return the size in bytes of the file of a worker with `slots` slots."""
    return ENTRIES + entries(slots) * ENTRY_SIZE


def clipped(text: str, limit: int) -> bytes:
    """Return `text` as UTF-8 of at most `limit` bytes, cut between characters."""
    encoded = text.encode()
    return encoded if len(encoded) <= limit else encoded[:limit].decode(errors="ignore").encode()


assert HEADER.size <= HEADER_SIZE
assert ROW_NAMES.size + ROW_FIGURES.size + EXEMPLAR.size + 2 * LONGEST.size <= ROW_SIZE
assert len(OP_BUCKETS) == len(BUCKETS)
assert ENTRY.size + 1 <= ENTRY_SIZE
