"""Check that a subclass of the contract leaves out no case silently."""

from __future__ import annotations

from ...backends.base import ALL_FEATURES
from .rig import Rig, RigCase


class Completeness(RigCase):
    """A subclass may add cases, but may drop or change one only with a stated reason."""

    def test_contract_is_complete(self) -> None:
        from . import BackendContract

        for name in dir(BackendContract):
            if not name.startswith("test_"):
                continue
            mine, original = getattr(type(self), name, None), getattr(BackendContract, name)
            if mine is original:
                continue
            marks = [mark for mark in getattr(mine, "pytestmark", []) if mark.name == "xfail"]
            assert any(mark.kwargs.get("reason") for mark in marks), (
                f"{type(self).__name__}.{name} replaces a case of the contract: mark it xfail with a reason, or remove it"
            )

    def test_features_are_known(self, rig: Rig) -> None:
        assert rig.features <= ALL_FEATURES, f"unknown features {sorted(rig.features - ALL_FEATURES)}"
