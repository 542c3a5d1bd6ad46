"""The contract on a queue without results with a SQLite file beside it: what `[results] url` does for RabbitMQ, without one."""

import pytest

from jobs_core.backends.auxstore import SUPPLIED, composed
from jobs_core.backends.memory import MemoryBackend
from jobs_core.errors import ConfigError
from jobs_core.ids import new_token
from jobs_core.testing import BackendContract
from jobs_core.testing.contract import Rig

LACKING = SUPPLIED | {"browse", "pause", "debounce", "exact_counts", "exact_redelivery"}


class PlainQueue(MemoryBackend):
    """Memory that has no more features than a plain queue, and is not emptied between connections."""

    features = MemoryBackend.features - LACKING

    def push(self, messages, request):
        if any(message.unique for message in messages):
            raise self._lacks("unique")
        return super().push(messages, request)

    def get(self, job_id):
        raise self._lacks("lookup")

    def browse(self, *_, **__):
        raise self._lacks("browse")

    def cancel(self, job_id):
        raise self._lacks("cancel")

    def pause(self, topic):
        raise self._lacks("pause")

    def fetch_result(self, job_id, timeout):
        raise self._lacks("results")


class TestSqliteBeside(BackendContract):
    waits_for_minutes = False

    @pytest.fixture
    def backend_url(self):
        return f"memory://{new_token()}"

    @pytest.fixture
    def results_url(self, tmp_path):
        return f"sqlite:///{tmp_path}/results.db"

    @pytest.fixture
    def rig(self, backend_url, results_url, monkeypatch):
        monkeypatch.setattr(Rig, "_queue_factory", lambda *_: PlainQueue)
        rig = Rig(backend_url, None, results_url=results_url)
        yield rig
        rig.close()


def test_a_store_that_cannot_be_claimed_from_is_refused_by_name(tmp_path):
    from jobs_core.backends.base import BackendOptions

    queue = PlainQueue(f"memory://{new_token()}", BackendOptions())
    with pytest.raises(ConfigError, match=r"results\.url: memory:// does not support .*sqlite:///results\.db"):
        composed(queue, queue)
