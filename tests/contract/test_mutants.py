"""The contract notices its mutants. `python -m tests.contract.mutants` tries every one; a few stand for them here."""

from __future__ import annotations

import pytest

from .mutants import MUTANTS, killed_by

QUICK = [
    "a delay is forgotten",
    "a push wakes nobody",
    "the prefix is not looked at",
    "unique keys are not held",
    "a reserve takes one too many",
    "an old token settles",
    "a release counts a redelivery",
    "follow-ups are lost",
    "the history of errors grows",
    "started jobs are not charged",
    "wait polls",
    "resume wakes nobody",
]
"""Each is noticed by a directed case within seconds."""


def test_mutants_are_many_and_have_names_of_their_own() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(names) == len(set(names)) >= 40
    assert set(QUICK) <= set(names)


@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if mutant.name in QUICK], ids=lambda mutant: mutant.name)
def test_the_contract_notices(mutant) -> None:
    assert killed_by(mutant)
