"""The sizes of pools that operators have set: which one holds, and what the housekeeper tells its supervisor of them."""

from __future__ import annotations

import pytest

from jobs_core import App, Config
from jobs_core.backends.memory import forget
from jobs_core.config import Pool
from jobs_core.ids import new_token
from jobs_core.machines import EVERYWHERE, SIZE, set_size, size_of, sizes
from jobs_core.plugins import Plugins
from jobs_core.registry import Registry
from jobs_core.supervisor.housekeeper.pool_sizes import PoolSizes
from jobs_core.supervisor.system.messages import Commanded

KEYS = ["a:0123456789012345678901234567890123"]
HERE, OTHER = "web1.aaaaaa", "web2.bbbbbb"


class Place:
    """A backend in memory that two applications use, and what housekeepers tell their supervisors."""

    def __init__(self, keys=()):
        self.url = f"memory://{new_token()}"
        self.app = self.application(keys)
        self.backend = self.app.new_backend()
        self.backend.open(None)
        self.told: list[tuple[str, int | None]] = []

    def application(self, keys=()):
        pools = {"mail": Pool(topics=["mail"]), "rest": Pool(topics=["default"])}
        return App(Config(backend=self.url, signing_keys=list(keys), pools=pools), plugins=Plugins(), registry=Registry())

    def housekeeper(self, machine=HERE):
        return PoolSizes(self.app, machine, self.hear)

    def hear(self, message: Commanded):
        assert (message.id, message.do) == ("", "scale")
        self.told.append((message.pool, message.workers))

    def look(self, housekeeper):
        self.told.clear()
        housekeeper.look(self.backend, self.backend.document_versions([SIZE])[SIZE])
        return self.told

    def set(self, workers, *targets, pool="mail", app=None):
        set_size(app or self.app, self.backend, pool, workers, targets)

    def close(self):
        self.backend.close()
        self.app.close()
        forget(self.url)


@pytest.fixture
def place():
    one = Place()
    yield one
    one.close()


@pytest.fixture
def signed():
    one = Place(KEYS)
    yield one
    one.close()


def test_a_size_is_told_once_and_again_by_the_next_housekeeper(place):
    housekeeper = place.housekeeper()
    assert place.look(housekeeper) == []
    place.set(5, EVERYWHERE)
    assert place.look(housekeeper) == [("mail", 5)]
    assert place.look(housekeeper) == []
    assert place.look(place.housekeeper()) == [("mail", 5)], "after a restart or a reload"
    place.set(None, EVERYWHERE)
    assert place.look(housekeeper) == [("mail", None)]
    assert place.look(place.housekeeper()) == [], "a pool that was never told stays as it is"


def test_the_size_of_a_machine_holds_before_that_of_its_host_and_of_all(place):
    found = lambda: size_of(sizes(place.app, place.backend), "mail", HERE)
    place.set(5, EVERYWHERE)
    place.set(6, "web1")
    place.set(7, HERE)
    assert found().workers == 7
    place.set(None, HERE)
    assert found().workers == 6
    place.set(None, "web1")
    assert found().workers == 5
    assert size_of(sizes(place.app, place.backend), "rest", HERE) is None
    place.set(7, HERE)
    place.set(4, EVERYWHERE)
    assert [(size.target, size.workers) for size in sizes(place.app, place.backend)] == [(EVERYWHERE, 4)], "all means all"


def test_what_other_machines_and_other_pools_are_told_is_not_told_here(place):
    housekeeper = place.housekeeper()
    place.set(5, OTHER)
    place.set(5, EVERYWHERE, pool="unknown")
    assert place.look(housekeeper) == []
    assert place.look(place.housekeeper(OTHER)) == [("mail", 5)]


def test_with_keys_a_size_made_without_them_or_copied_is_refused_and_logged(signed, caplog):
    signed.set(9, EVERYWHERE, app=signed.application())
    assert signed.look(signed.housekeeper()) == []
    assert "the size */mail of a pool in the backend is refused" in caplog.text
    signed.set(None, EVERYWHERE)
    signed.set(9, OTHER)
    (document,) = signed.backend.documents(SIZE, 10)
    signed.backend.put_document(SIZE, f"{HERE}/mail", document.data, new_token())
    assert signed.look(signed.housekeeper()) == []
    assert signed.look(signed.housekeeper(OTHER)) == [("mail", 9)]


@pytest.mark.parametrize(
    "data", [b"7", b"null", b'{"v":1,"body":{"workers":-1},"issued_at":0}', b'{"v":1,"body":[],"issued_at":0}']
)
def test_a_document_that_is_no_size_is_refused(place, data, caplog):
    place.backend.put_document(SIZE, "*/mail", data, new_token())
    assert place.look(place.housekeeper()) == []
    assert "is refused" in caplog.text
