"""The receivers on the page about webhooks accept what is sent, and nothing else."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from jobs_core import webhook_signing

from ..unit.test_webhooks import OTHER, SECRET

PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
BODY = b'{"type":"test"}'


def block(language: str) -> str:
    [found] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


def cases() -> list[tuple[str, dict[str, str], bytes, str]]:
    """Return names, headers, bodies, and what the receiver says of each."""
    now = int(time.time())
    good = webhook_signing.headers(webhook_signing.keys(SECRET), "id", now, BODY)
    return [
        ("good", good, BODY, ""),
        ("both secrets", webhook_signing.headers(webhook_signing.keys(f"{OTHER} {SECRET}"), "id", now, BODY), BODY, ""),
        ("other body", good, BODY + b" ", "wrong signature"),
        ("other id", {**good, "webhook-id": "di"}, BODY, "wrong signature"),
        ("other secret", webhook_signing.headers(webhook_signing.keys(OTHER), "id", now, BODY), BODY, "wrong signature"),
        ("replayed", webhook_signing.headers(webhook_signing.keys(SECRET), "id", now - 600, BODY), BODY, "too old"),
    ]


def test_the_receiver_in_python_accepts_what_is_sent_and_nothing_else():
    names: dict = {}
    exec(block("python"), names)
    assert len(block("python").splitlines()) <= 16
    for _, headers, body, said in cases():
        with pytest.raises(ValueError, match=said) if said else contextlib.nullcontext():
            names["verify"](SECRET, headers, body)


@pytest.mark.skipif(shutil.which("php") is None, reason="php is not installed")
def test_the_receiver_in_php_accepts_what_is_sent_and_nothing_else(tmp_path):
    (tmp_path / "verify.php").write_text(block("php"))
    (tmp_path / "try.php").write_text(
        "<?php require 'verify.php'; foreach (json_decode(file_get_contents('php://stdin'), true) as $case) {"
        'try { verify($case[0], $case[1], $case[2]); echo "\\n"; } catch (Exception $e) { echo $e->getMessage() . "\\n"; } }'
    )
    given = json.dumps([[SECRET, headers, body.decode()] for _, headers, body, _ in cases()])
    done = subprocess.run(["php", "try.php"], cwd=tmp_path, input=given, text=True, capture_output=True, check=True)
    assert done.stdout.splitlines() == [said for *_, said in cases()]
