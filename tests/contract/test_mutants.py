"""The contract detects its mutants.

`python -m tests.contract.mutants` tries all of them; a few represent them here, each with the case that is to detect it.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from .mutants import MODEL, MUTANTS, ROOT

QUICK = {
    "a delay is forgotten": "test_counts",
    "a push wakes nobody": "test_a_push_wakes",
    "the prefix is not looked at": "test_prefixes_keep_applications_apart",
    "unique keys are not held": "test_a_second_job_under_a_held_key_is_refused",
    "a reserve takes one too many": "test_counts",
    "an old token settles": "test_an_old_token_can_settle_nothing",
    "a release counts a redelivery": "test_what_a_worker_of_short_jobs_gives_back_is_as_new",
    "follow-ups are lost": "test_follow_ups_wake_another_worker",
    "the history of errors grows": "test_the_newest_errors_are_kept",
    "started jobs are not charged": "test_all_jobs_of_an_expired_owner_are_charged_and_a_lone_one_with_a_crash",
    "wait polls": "test_waiting_does_not_poll",
    "resume wakes nobody": "test_a_resume_wakes",
}
"""Mutants, each with a directed case that detects it within seconds."""


def test_mutants_are_many_and_have_names_of_their_own() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(names) == len(set(names)) >= 40
    assert set(QUICK) <= set(names)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutated_line_occurs_once_in_the_model(mutant) -> None:
    assert (MODEL / mutant.file).read_text().count(mutant.old) == 1


@pytest.fixture(scope="module")
def killed() -> dict[str, str]:
    """Return the case that detected each of the few, tried one after the other by a process that imports everything once."""
    command = [sys.executable, "-m", "tests.contract.mutants", *(f"{name}={case}" for name, case in QUICK.items())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    return dict(re.findall(r"^killed +(.*?)  +(test_.+)$", done.stdout, re.MULTILINE)) or {"": done.stdout + done.stderr}


@pytest.mark.parametrize("mutant", QUICK)
def test_the_contract_notices(mutant, killed) -> None:
    assert killed.get(mutant, str(killed)).startswith(QUICK[mutant])
