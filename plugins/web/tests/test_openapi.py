"""The OpenAPI document and the API agree, in both directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from jobs_core import job, set_current_app
from jobs_core.backends.memory import forget
from jobs_web.api.openapi import described
from jobs_web.api.operation import PREFIX, Operation
from jobs_web.api.operations import OPERATIONS
from jobs_web.routes import ROUTES, Kind

from .support import Rig

schemathesis = pytest.importorskip("schemathesis")

URL = "memory://openapi"

TOKENS: dict[str, str] = {}

JUDGED_BY_VALUE = pytest.importorskip("schemathesis.specs.openapi.checks").positive_data_acceptance
"""The check that all that fits the schema is accepted: a name of a job, a cursor or a key may still be unknown, or taken."""


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Any:
    rig = Rig(URL, Path(tmp_path_factory.mktemp("openapi")))
    set_current_app(rig.app)
    rig.site.guesses.failed = lambda client: None  # each call is tried with a wrong token, too

    @job(name="add", registry=rig.app.registry)
    def add(a: int, b: int = 2) -> int:
        return a + b

    loaded = schemathesis.openapi.from_asgi(f"{PREFIX}/openapi.json", rig.asgi)
    TOKENS.update(rig.tokens)
    yield loaded
    set_current_app(None)
    rig.close()
    forget(URL)


def test_every_route_is_in_the_document_and_every_call_of_it_is_a_route():
    paths = described()["paths"]
    told = {(path, method.upper()) for path, calls in paths.items() for method in calls}
    routed = {(route.path, route.method) for route in ROUTES if route.kind is Kind.API}
    assert routed - told == {(f"{PREFIX}/openapi.json", "GET")}
    assert told - routed == set()


def test_every_name_of_a_call_is_unique_and_the_document_knows_its_prefix():
    names = [call["operationId"] for calls in described()["paths"].values() for call in calls.values()]
    assert len(names) == len(set(names))
    assert described("/jobs")["servers"] == [{"url": "/jobs"}]


@pytest.mark.parametrize("operation", OPERATIONS, ids=[f"{each.method} {each.path}" for each in OPERATIONS])
def test_what_the_document_says_is_what_the_api_does(schema: Any, operation: Operation):
    """What fits the document is answered as it says, and what does not fit is refused."""

    @given(case=schema[PREFIX + operation.path][operation.method].as_strategy())
    @settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def check(case: Any) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {TOKENS['admin']}"}, excluded_checks=[JUDGED_BY_VALUE])

    check()
