"""Log lines."""

import io
import json
import logging
from typing import ClassVar, get_type_hints

import pytest

from jobs_core import events, logs


@pytest.fixture
def log():
    stream = io.StringIO()

    def log(format_="text"):
        logs.to_stream("debug", format_, stream)
        return stream

    return log


def test_an_event_is_a_sentence(log):
    stream = log()
    events.emit(events.JobFailed("id", "shop.pay", "money", 2, 4.0, "ValueError: no", "Traceback\n  line"))
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("shop.pay id in topic money failed, attempt 2; retrying in 4s: ValueError: no")
    assert "WARNING" in first
    assert rest == ["    | Traceback", "    |   line"]


def test_values_of_messages_cannot_forge_lines(log):
    stream = log()
    evil = "x\n2026-01-01 00:00:00.000 ERROR [1] forged\r\x1b[31m\u2028y"
    events.emit(events.JobDied("id", evil, evil, 1, evil, evil, evil))
    logging.getLogger("a").warning("%s", evil)
    lines = stream.getvalue().splitlines()
    assert not any(line.startswith("2026-01-01") for line in lines)
    assert "\x1b" not in stream.getvalue()
    assert "\\n2026-01-01" in lines[0]
    assert sum(not line.startswith("    |") for line in lines) == 2


def test_json_is_one_object_a_line(log):
    stream = log("json")
    events.emit(events.JobDied("id", "a\nb", "t", 1, "failed", "boom", "Traceback\n…"))
    logging.getLogger("other").info("hello %s", "world")
    try:
        raise ValueError("x")
    except ValueError:
        logging.getLogger("other").exception("oh")
    died, hello, oh = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (died["event"], died["job"], died["level"], died["topic"]) == ("JobDied", "a\nb", "error", "t")
    assert (hello["message"], hello["logger"]) == ("hello world", "other")
    assert "ValueError: x" in oh["traceback"]


KINDS = [
    kind
    for kind in vars(events).values()
    if isinstance(kind, type) and issubclass(kind, events.Event) and not kind.__subclasses__()
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_event_has_its_own_sentence(kind):
    event = kind(*[_example(annotation) for annotation in get_type_hints(kind).values() if annotation is not ClassVar[int]])
    assert str(event) != repr(event)
    assert all(f"{name}=" not in str(event) for name in kind.__struct_fields__)
    assert kind.__doc__
    assert kind.level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)


@pytest.mark.parametrize("name", ["event", "traceback", "job_context", "worker"])
@pytest.mark.parametrize("value", ["login", 5, None, ["a"], {"a": 1}, object(), ValueError("x")])
@pytest.mark.parametrize("format_", ["text", "json"])
def test_extra_fields_of_an_application_never_lose_the_line(name, value, format_):
    record = logging.makeLogRecord({"msg": "paid %s", "args": ("7",), "levelname": "INFO", name: value})
    assert "paid 7" in logs.formatter(format_).format(record)


def _example(annotation):
    return {int: 1, float: 1.0, float | None: 1.0, tuple[str, ...]: ("a",)}.get(annotation, "text")
