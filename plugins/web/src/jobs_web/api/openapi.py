"""The OpenAPI 3.1 document, made from the table of calls and the types of their bodies and answers."""

from __future__ import annotations

import functools
import re
from typing import Any

import msgspec
from starlette.responses import Response

from ..visit import Visit
from .jobs import Batch
from .once import KEY
from .operation import NDJSON, PREFIX, Operation
from .operations import OPERATIONS, Job

JSON = "application/json"
PROBLEM = "application/problem+json"


def document(visit: Visit) -> Response:
    """Return the OpenAPI document; it needs no token, and shows nothing of the installation."""
    return Response(_written(str(visit.request.scope.get("root_path", ""))), media_type=JSON)


@functools.lru_cache(16)
def _written(root: str) -> bytes:
    return msgspec.json.encode(described(root))


def described(root: str = "") -> dict[str, Any]:
    """Return the document for an API that is published under the prefix `root`."""
    types = [kind for each in OPERATIONS for kind in (each.answer, each.body) if kind not in (None, Job)]
    schemas, components = msgspec.json.schema_components([*types, Batch], ref_template="#/components/schemas/{name}")
    by_type = dict(zip([*types, Batch], schemas, strict=True))
    by_type[Job] = {"$ref": "#/components/schemas/Job"}
    paths: dict[str, Any] = {}
    for each in OPERATIONS:
        paths.setdefault(PREFIX + each.path, {})[each.method.lower()] = _operation(each, by_type)
    return {
        "openapi": "3.1.0",
        "info": {"title": "jobs", "version": "1", "description": "Background jobs: enqueue, look, act."},
        "servers": [{"url": root or "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": {**components, "Job": JOB, "Problem": PROBLEM_SCHEMA},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


JOB = {
    "type": "object",
    "description": "A job, with all that is known about it.",
    "required": ["id", "topic", "state"],
    "properties": {
        "id": {"type": "string"},
        "topic": {"type": "string"},
        "state": {
            "enum": ["ready", "limited", "waiting", "scheduled", "reserved", "done", "dead", "cancelled"],
        },
        "attempt": {"type": "integer", "minimum": 0},
        "message": {"type": "object"},
        "result": {},
        "errors": {"type": "array", "items": {"type": "object"}},
        "reason": {"type": "string"},
    },
}

PROBLEM_SCHEMA = {
    "type": "object",
    "description": "An error, as RFC 9457 describes it.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
    },
}


def _operation(each: Operation, types: dict[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": each.about,
        "operationId": _name(each),
        "tags": [each.path.split("/")[1]],
        "parameters": list(_parameters(each)),
        "responses": {
            str(each.status): {"description": "Success", "content": {each.media: {"schema": _answer(each, types)}}},
            "default": {
                "description": "An error",
                "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
    }
    if each.lines:
        created = types[each.answer]
        found["responses"]["200"] = {
            "description": "The jobs of NDJSON; or a job that was not created, because it would have been a duplicate",
            "content": {JSON: {"schema": {"anyOf": [created, types[Batch]]}}},
        }
    if each.body is not None:
        content = {JSON: {"schema": types[each.body]}}
        if each.lines:
            content[NDJSON] = {"schema": {"type": "string", "description": "A job as JSON on each line."}}
        found["requestBody"] = {"required": True, "content": content}
    if each.role is None:
        found["security"] = []
    else:
        found["x-role"] = each.role.word
    return found


def _answer(each: Operation, types: dict[Any, Any]) -> Any:
    return {"type": "string"} if each.answer is None else types[each.answer]


def _name(each: Operation) -> str:
    """Return the name of a call: `post_jobs_id_cancel`."""
    return re.sub(r"[^a-z]+", "_", f"{each.method.lower()}{each.path}").strip("_")


def _parameters(each: Operation) -> Any:
    for name in re.findall(r"{(\w+)}", each.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1, "maxLength": 200}}
    for param in each.query:
        yield {
            "name": param.name, "in": "query", "required": param.required, "description": param.about,
            "schema": param.schema(),
        }  # fmt: skip
    if each.once:
        yield {
            "name": "Idempotency-Key", "in": "header", "required": False,
            "description": "The call is carried out once, however often it is repeated with this key within a day.",
            "schema": {"type": "string", "pattern": f"^{KEY.pattern}$"},
        }  # fmt: skip
