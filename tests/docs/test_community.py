"""Issue forms, the security policy and the roadmap: valid, and in step with the product."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from jobs_core.backends.base import ALL_FEATURES
from jobs_rabbitmq.backend import RabbitMQBackend
from jobs_redis.cluster import RedisClusterBackend

ROOT = Path(__file__).parents[2]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
ROADMAP = (ROOT / "docs" / "roadmap.md").read_text()


def check(schema: str, *files: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_issue_forms_follow_their_schema():
    check("vendor.github-issue-forms", *[path for path in FORMS if path.name != "config.yml"])
    check("vendor.github-issue-config", *[path for path in FORMS if path.name == "config.yml"])


def test_the_issue_forms_name_pages_and_commands_that_there_are():
    from jobs_core.cli.main import OURS

    text = "".join(path.read_text() for path in FORMS)
    assert set(re.findall(r"`jobsctl ([\w-]+)", text)) <= OURS.keys()
    named = re.findall(r"\b(?:docs/[\w-]+|[A-Z]+)\.md\b", text)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_a_bug_names_its_backend():
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text())
    (choice,) = [field for field in form["body"] if field.get("id") == "backend"]
    assert len(choice["attributes"]["options"]) == 8
    assert choice["validations"]["required"]


@pytest.mark.parametrize(
    ("name", "backend"), [("Redis Cluster", RedisClusterBackend), ("RabbitMQ", RabbitMQBackend)], ids=["cluster", "rabbitmq"]
)
def test_the_roadmap_names_every_feature_that_a_backend_lacks(name, backend):
    (row,) = re.findall(rf"^\| {name} \| (`[^|]*) \|$", ROADMAP, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == ALL_FEATURES - backend.features - _with_results(backend)


def _with_results(backend) -> frozenset[str]:
    """Return the features that a backend has with a store of results, which its table in docs/backends.md says."""
    if backend is not RabbitMQBackend:
        return frozenset()
    rows = re.findall(r"^\| (\w+) \|.*\| with `\[results\]` \|$", (ROOT / "docs" / "backends.md").read_text(), re.MULTILINE)
    return frozenset(rows)


def test_the_security_policy_has_a_contact_by_role_and_times():
    text = (ROOT / "SECURITY.md").read_text()
    assert "**security contact**" in text
    assert re.findall(r"^\| (\d+) days \|", text, re.MULTILINE) == ["3", "10", "90"]
