"""The SQLite backend keeps the contract, with a movable clock and with the real one."""

import pytest

from jobs_core.testing import BackendContract


class TestSqlite(BackendContract):
    takes_clock = True

    @pytest.fixture
    def backend_url(self, tmp_path):
        return f"sqlite:///{tmp_path / 'queue.db'}"


class TestSqliteOnItsOwnClock(BackendContract):
    waits_for_minutes = False

    @pytest.fixture
    def backend_url(self, tmp_path):
        return f"sqlite:///{tmp_path / 'queue.db'}?durability=process"
