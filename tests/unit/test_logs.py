"""Log lines."""

import io
import json
import logging

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


def test_every_event_has_a_sentence_and_a_level():
    kinds = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, events.Event)]
    for kind in kinds:
        if kind is events.Event:
            continue
        assert kind in events.LEVELS, kind
        event = kind(*[_example(annotation) for annotation in kind.__annotations__.values()])
        assert logs.sentence(event) != repr(event), f"logs.sentence does not know {kind.__name__}"
        assert kind.__doc__


def _example(annotation):
    return {"int": 1, "float": 1.0, "float | None": 1.0, "tuple[str, ...]": ("a",)}.get(str(annotation), "text")
