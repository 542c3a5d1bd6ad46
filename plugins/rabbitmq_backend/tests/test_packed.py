"""Packed arguments through RabbitMQ."""

import pytest
from tests.support.packed import FORMS, require_packed_jobs_to_run


@pytest.mark.parametrize("form", FORMS)
def test_packed_jobs_run_and_run_again_from_the_dead_letters(rabbitmq_url, tmp_path, form):
    require_packed_jobs_to_run(rabbitmq_url, form, tmp_path)
