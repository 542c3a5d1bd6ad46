"""`jobsctl payloads clean`."""

import json
import os
import time

import pytest


def test_clean_says_how_many_it_deleted_and_needs_a_store(project):
    assert "payloads.url is not set" in project.here("payloads", "clean", code=1)
    project.configure(f'[payloads]\nurl = "file://{project.root}/blobs"\nabove = 100')
    job_id = project.push("note", "x" * 500)
    assert "x" * 500 in project.here("show", job_id)
    (blob,) = (project.root / "blobs").iterdir()
    assert "0 payloads deleted" in project.here("payloads", "clean")
    project.here("purge", "default", "--yes")
    os.utime(blob, (time.time() - 90_000,) * 2)
    assert "1 payload deleted" in project.here("payloads", "clean")
    assert list((project.root / "blobs").iterdir()) == []


def test_a_job_with_unavailable_arguments_is_shown_without_them(project):
    project.configure(f'[payloads]\nurl = "file://{project.root}/blobs"\nabove = 100')
    job_id = project.push("note", "x" * 500)
    (blob,) = (project.root / "blobs").iterdir()
    blob.unlink()
    assert "is missing in the payload store" in project.here("show", job_id)
    (project.root / "blobs").rmdir()
    assert "cannot be used" in project.here("show", job_id)


BAD = [
    ('url = "file:///dev/null/blobs"', "payloads.url", "is not a directory"),
    ('url = "file:///blobs?durability=none"', "payloads.url", 'expected "file:///an/absolute/directory"'),
    ('url = "file:///blobs?above=5"', "payloads.url", 'expected "file:///an/absolute/directory"'),
    ('url = "file://host/blobs"', "payloads.url", 'expected "file:///an/absolute/directory"'),
    ('url = "s3://"', "payloads.url", 'expected "file:///an/absolute/directory"'),
    ('compress = "nosuch"', "payloads.compress", "nosuch"),
    ('compress = ""', "payloads.compress", "expected a string"),
    ('compress_above = "-1B"', "payloads.compress_above", "expected"),
]


@pytest.mark.parametrize(("line", "key", "says"), BAD)
def test_check_fails_for_each_bad_setting_of_payloads_and_names_its_line(project, line, key, says):
    project.configure(f"[payloads]\n{line}")
    number = (project.root / "jobs.toml").read_text().splitlines().index(line) + 1
    found = json.loads(project.here("check", "--json", code=None))
    bad = [finding["text"] for finding in found if finding["state"] == "bad"]
    assert any(f"jobs.toml: {key}: " in text and says in text and f"(at line {number})" in text for text in bad), bad


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("JOBS_PAYLOADS__URL", "file:///dev/null/blobs"),
        ("JOBS_PAYLOADS__COMPRESS", "nosuch"),
        ("JOBS_ENCRYPTION_KEYS", "k1:short"),
        ("JOBS_SIGNING_KEYS", "k1:short"),
    ],
)
def test_check_names_the_variable_that_holds_a_bad_setting(project, variable, value):
    found = json.loads(project.here("check", "--json", code=None, **{variable: value}))
    bad = [finding["text"] for finding in found if finding["state"] == "bad"]
    assert any(text.startswith(f"{variable}: ") for text in bad), bad


def test_check_accepts_a_store_that_its_first_payload_will_make(project):
    project.configure(f'[payloads]\nurl = "file://{project.root}/new/blobs"')
    assert "the payload store is file://" in project.here("check", code=None)
    assert not (project.root / "new").exists()
