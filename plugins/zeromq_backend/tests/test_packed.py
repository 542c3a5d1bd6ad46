"""Packed arguments through a ZeroMQ broker."""

import pytest
from tests.support.packed import FORMS, require_packed_jobs_to_run


@pytest.mark.parametrize("form", FORMS)
def test_packed_jobs_run_and_run_again_from_the_dead_letters(in_process, borrowed_clock, tmp_path, form):
    require_packed_jobs_to_run(in_process.url, form, tmp_path)
