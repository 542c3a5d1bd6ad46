"""`jobsctl diagnose`: one archive, complete, without secrets, whatever does not work."""

from __future__ import annotations

import stat
import tarfile
from pathlib import Path

import pytest

from jobs_core.cli import diagnose
from jobs_core.cli.masking import mask

from ..support.project import Project
from ..support.stopwatch import Stopwatch
from ..support.supervised import Supervised

FILES = {"README.txt", "versions.txt", "log.txt", *diagnose.COMMANDS}


def contents(archive: Path) -> dict[str, str]:
    with tarfile.open(archive) as opened:
        members = opened.getmembers()
        assert len({Path(member.name).parent for member in members}) == 1
        return {Path(member.name).name: opened.extractfile(member).read().decode() for member in members}  # type: ignore[union-attr]


def test_it_writes_one_archive_and_lists_what_is_in_it(project: Project):
    project.configure('[logs]\nfile = "jobs.log"\n')
    Supervised(project, ready=False).until_state("serving")
    project.push("note", topic="later")
    said = project.run("diagnose", "-o", "report.tar.gz")
    assert said.returncode == 0, said.stderr
    archive = project.root / "report.tar.gz"
    found = contents(archive)
    assert set(found) == FILES
    for name in FILES - {"README.txt"}:
        assert name in said.stdout
        assert name in found["README.txt"]
    assert f"Wrote report.tar.gz ({archive.stat().st_size:,} bytes)" in said.stdout
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert '"running": true' in found["status.json"] or '"running":true' in found["status.json"]
    assert "later" in found["topics.json"]
    assert "ready: " in found["log.txt"]
    assert "jobs-core" in found["versions.txt"]
    assert "modules" in found["configuration.txt"]


def test_secrets_of_the_configuration_are_in_no_file_not_even_in_log_lines(project: Project):
    secret = {
        "signing": "S1gning-secret-0123456789",
        "encryption": "Encrypti0n-secret-0123456789-0123456789",
        "webhook": "hook-t0ken-abcdef",
        "password": "pa55word-of-redis",
    }
    project.configure(
        f'signing_keys = ["k1:{secret["signing"]}"]\nencryption_keys = ["e1:{secret["encryption"]}"]\n'
        f'[logs]\nfile = "jobs.log"\n[results]\nurl = "redis://me:{secret["password"]}@127.0.0.1:1/0"\n'
        f'[alerts.channels.ops]\nkind = "webhook"\nurl = "https://hooks.example/{secret["webhook"]}"\n'
    )
    (project.root / ".jobs").mkdir(mode=0o700)
    (project.root / ".jobs" / "state.json").write_bytes(_state(project.root / "jobs.log"))
    lines = [f"a job printed {each}" for each in secret.values()] + ["redis://other:hidden99@h/0 is away", "plain line"]
    (project.root / "jobs.log").write_text("\n".join(lines))
    assert project.run("diagnose", "-o", "report.tar.gz").returncode == 0
    found = contents(project.root / "report.tar.gz")
    everything = "".join(found.values())
    assert "plain line" in found["log.txt"]
    for each in (*secret.values(), "hidden99"):
        assert each not in everything


def test_secrets_that_jobs_print_and_those_of_the_environment_and_of_files_are_replaced(project: Project):
    (project.root / "hook").write_text("https://hooks.example/in-a-f1le\n")
    project.configure(
        '[logs]\nfile = "jobs.log"\n[alerts.channels.ops]\nkind = "webhook"\n'
        f'url_file = "{project.root / "hook"}"\n'
        '[schedule.night]\njob = "tasks.note"\nevery = "1h"\nargs = ["argument-of-the-schedule"]\n'
    )
    lines = [
        "connecting with password=pr1nted-a and api_key: pr1nted-b",
        'sent {"token": "pr1nted-c", "user": 7}',
        "Authorization: Bearer pr1nted-d",
        "a job repeats pr1nted-e of its environment, and pr1nted-f-1234 of a URL there",
        "posting to https://hooks.example/in-a-f1le failed",
        "-----BEGIN PRIVATE KEY-----",
        "    | pr1nted-g",
        "-----END PRIVATE KEY-----",
        f"running in {project.root}, the token bucket is full",
    ]
    (project.root / ".jobs").mkdir(mode=0o700)
    (project.root / ".jobs" / "state.json").write_bytes(_state(project.root / "jobs.log"))
    (project.root / "jobs.log").write_text("\n".join(lines))
    variables = {"SHOP_TOKEN": "pr1nted-e", "DATABASE_URL": "postgresql://me:pr1nted-f-1234@h/db", "PWD": str(project.root)}
    assert project.run("diagnose", "-o", "report.tar.gz", **variables).returncode == 0
    found = contents(project.root / "report.tar.gz")
    everything = "".join(found.values())
    for secret in ("pr1nted", "in-a-f1le", "argument-of-the-schedule"):
        assert secret not in everything
    assert f"running in {project.root}, the token bucket is full" in found["log.txt"], "only secrets are replaced"
    assert '"user": 7' in found["log.txt"]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("password=hunter2 x", "password=… x"),
        ("PASSWORD: 'a b c'", "PASSWORD: '…'"),
        ('{"api_key": "abc", "n": 5, "tokens": [12345, 6]}', '{"api_key": "…", "n": 5, "tokens": [12345, 6]}'),
        ('{"token": null, "secret": true, "pwd": 12}', '{"token": null, "secret": true, "pwd": 12}'),
        ("Authorization: Bearer abc.def.ghi", "Authorization: …"),
        ("authorization='Basic dXNlcjpwYXNz'", "authorization='…'"),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG", "AWS_SECRET_ACCESS_KEY=…"),
        ("token ghp_abcdefghijklmnop0123456789 x", "token … x"),
        ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln end", "got … end"),
        ("https://x/y?key=abc&sig=def&z=1", "https://x/y?key=…&sig=…&z=1"),
        (r'{"error": "E: password=\"x y\" and more", "b": 1}', r'{"error": "E: password=\"…\" and more", "b": 1}'),
        ("https://hooks.slack.com/services/T0/B0/xyz failed", "https://hooks.slack.com/… failed"),
        ("the token bucket is full", "the token bucket is full"),
        ("סיסמה 😀 secret: שלום", "סיסמה 😀 secret: …"),
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_masked(text, masked):
    assert mask(text) == masked


@pytest.mark.parametrize("text", ["password", "x", '"token": "', "-----BEGIN PRIVATE KEY-----", "eyJabcdefgh.", "secret\\"])
def test_masking_takes_time_in_proportion_to_the_text(text):
    watch = Stopwatch()
    mask(text * (500_000 // len(text)))
    assert watch.stop() < 20, "a pattern that backtracks would take hours"


def _state(log: Path) -> bytes:
    import msgspec

    from jobs_core.scoreboard.state import SupervisorState

    fields = {
        each.encode_name: {"str": "", "int": 0, "float": 0.0, "bool": False}.get(getattr(each.type, "__name__", ""))
        for each in msgspec.structs.fields(SupervisorState)
        if each.required
    }
    return msgspec.json.encode({**fields, "log": str(log)})


def test_no_existing_file_is_overwritten(project: Project):
    (project.root / "report.tar.gz").write_text("mine")
    said = project.here("diagnose", "-o", "report.tar.gz", code=2)
    assert "report.tar.gz already exists: name another file with --output" in said
    assert (project.root / "report.tar.gz").read_text() == "mine"


def test_only_secrets_are_replaced(project: Project):
    project.configure('[plugins.opentelemetry]\nsetup = "telemetry:configure"\n')
    assert project.run("diagnose", "-o", "report.tar.gz").returncode == 0
    found = contents(project.root / "report.tar.gz")
    assert "sqlite:///queue.db" in found["configuration.txt"]


def test_a_broken_configuration_is_part_of_the_diagnosis(project: Project):
    project.configure("lease = 5 parsecs\n")
    said = project.run("diagnose", "-o", "report.tar.gz")
    assert said.returncode == 0, said.stderr
    found = contents(project.root / "report.tar.gz")
    assert set(found) == FILES
    assert "jobs.toml" in found["check.txt"]
    assert "exit code" in found["check.txt"]


def test_a_command_that_never_answers_costs_only_its_own_part(project: Project, monkeypatch):
    (project.root / "tasks.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(600)\n")
    monkeypatch.chdir(project.root)
    monkeypatch.setattr(diagnose, "PATIENCE", 3.0)
    assert "stopped after 3 s, because the command had not ended" in diagnose.said(["check"])


def test_a_failure_leaves_no_half_archive_behind(project: Project, monkeypatch):
    def fails(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(diagnose, "said", fails)
    project.here("diagnose", "-o", "report.tar.gz", code=None)
    assert not (project.root / "report.tar.gz").exists()


def test_a_directory_that_cannot_be_written_is_a_sentence(project: Project):
    said = project.here("diagnose", "-o", "nowhere/report.tar.gz", code=2)
    assert "nowhere/report.tar.gz cannot be written: No such file or directory" in said
