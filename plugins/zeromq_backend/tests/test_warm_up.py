"""After `warm_up`, the first enqueue imports nothing."""

from __future__ import annotations

from tests.unit.test_warm_up import imported_by_the_first_enqueue


def test_the_first_enqueue_after_it_imports_nothing(service, tmp_path):
    service.start()
    assert imported_by_the_first_enqueue(service.url, tmp_path) == []
