"""The whole path of a log line: eight processes at full speed, one writer."""

from __future__ import annotations

import json
import logging
import re

import pytest

from jobs_core.config import Logs
from jobs_core.supervisor.log.writer import LogWriter
from jobs_core.supervisor.processes import pipes
from jobs_core.units import Size

from .writers import carry, child

CHILDREN = 8
LINES = 4000


def talk(number):
    """Write short and long records, tracebacks, prints, and writes past Python, all numbered."""

    def act():
        import os

        log = logging.getLogger("shop")
        for count in range(LINES):
            if count % 50 == 7:
                print(f"<{number}:{count}>")
            elif count % 50 == 13:
                try:
                    raise ValueError("x" * 3000)
                except ValueError:
                    log.exception("<%d:%d>", number, count)
            elif count % 500 == 21:
                log.info("<%d:%d> %s", number, count, "long " * 4_000)
            else:
                log.info("<%d:%d>", number, count)
        for count in range(200):
            os.write(1 + count % 2, f"<raw {number}:{count}>\n".encode())

    return act


def kept(path):
    """Return the files of the log, from the oldest."""
    numbers = sorted((int(file.name.rpartition(".")[2]) for file in path.parent.glob(f"{path.name}.*")), reverse=True)
    return [*(path.parent / f"{path.name}.{number}" for number in numbers), path]


@pytest.mark.parametrize("format_", ["text", "json"])
def test_no_line_is_lost_or_torn_while_eight_processes_write_at_full_speed_and_files_rotate(tmp_path, format_, monkeypatch):
    monkeypatch.setattr(pipes, "READ_SIZE", 8_000)  # small blocks: more places where a line could be cut
    path = tmp_path / "logs" / "jobs.log"
    writer = LogWriter(Logs(file=str(path), max_size=Size(30_000), keep=10_000, format=format_), tmp_path)
    carry([child(talk(number), format_, f"w{number}") for number in range(CHILDREN)], writer, format_)
    writer.close()
    files = kept(path)
    assert len(files) > 150
    assert max(file.stat().st_size for file in files) <= 30_000
    lines = [line for file in files for line in file.read_bytes().decode().splitlines()]
    assert all(file.read_bytes().endswith(b"\n") for file in files)
    seen = read_json(lines) if format_ == "json" else read_text(lines)
    for number in range(CHILDREN):
        assert [count for worker, count in seen["said"] if worker == number] == list(range(LINES))
        assert [count for worker, count in seen["raw"] if worker == number] == list(range(200))
    assert len(seen["said"]) == CHILDREN * LINES
    assert seen["tracebacks"] == CHILDREN * LINES // 50


def read_text(lines):
    head = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (INFO   |ERROR  ) \[w(\d)\] <(raw )?(\d):(\d+)>( (long ?)+)?$")
    seen = {"said": [], "raw": [], "tracebacks": 0}
    last = None
    for line in lines:
        if line.startswith("    | "):
            assert last[1] == "ERROR  "
            if line.startswith("    | ValueError: xxx"):
                seen["tracebacks"] += 1
                assert len(line) == 3000 + len("    | ValueError: ")
            continue
        last = head.match(line)
        assert last, line[:200]
        assert last[2] == last[4]
        seen["raw" if last[3] else "said"].append((int(last[4]), int(last[5])))
    return seen


def read_json(lines):
    seen = {"said": [], "raw": [], "tracebacks": 0}
    for line in lines:
        entry = json.loads(line)
        match = re.match(r"<(raw )?(\d):(\d+)>", entry["message"])
        assert entry["worker"] == f"w{match[2]}"
        seen["raw" if match[1] else "said"].append((int(match[2]), int(match[3])))
        seen["tracebacks"] += "traceback" in entry
    return seen


def test_rotation_keeps_as_many_files_as_it_should(tmp_path):
    path = tmp_path / "jobs.log"
    writer = LogWriter(Logs(file=str(path), max_size=Size(100_000), keep=3), tmp_path)
    carry([child(talk(number), worker=f"w{number}") for number in range(2)], writer)
    writer.close()
    assert [file.name for file in kept(path)] == ["jobs.log.3", "jobs.log.2", "jobs.log.1", "jobs.log"]
    assert all(file.read_bytes().endswith(b"\n") for file in kept(path))
