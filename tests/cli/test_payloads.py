"""`jobsctl payloads clean`."""

import os
import time


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
