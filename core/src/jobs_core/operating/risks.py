"""What `jobsctl check` finds in a running installation: risks of the broker, settings without effect, refused documents.

It takes some round trips, and with some backends connections of its own: read it now and then, and not for each page.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..app import App
from ..errors import BackendUnavailable, JobsError
from ..events import TopicUnserved
from .attention import Finding, Level
from .in_outbox import is_late, look, told
from .limits_check import lacking, problems
from .refused import entry_refused, refused_entries, refused_sizes, size_refused

CHECK = "jobsctl check"

_LEVELS: dict[str, Level] = {"bad": "bad", "warning": "warning"}


def risks(app: App) -> list[Finding]:
    """Return the findings of all parts; one that fails is a finding itself. Without jobs here, what needs them is left out."""
    found: list[Finding] = []
    for part in (_advice, _sizes, _outbox, *((_unserved, _limits, _schedule) if list(app.registry) else ())):
        try:
            found += part(app)
        except BackendUnavailable:  # the snapshot says so
            continue
        except JobsError as error:
            found.append(Finding("warning", f"a part of the installation could not be checked: {error}", "backend", fix=CHECK))
    return found


def _advice(app: App) -> Iterator[Finding]:
    for text in app.operate(lambda backend: list(backend.advice())):
        yield Finding("warning", f"the backend works, but {text}", "backend", fix=CHECK)


def _unserved(app: App) -> Iterator[Finding]:
    for topic, senders in app.destinations().items():
        if app.config.is_unserved(topic):
            yield Finding("warning", str(TopicUnserved(topic, 0, senders)), "topic", topic, CHECK)


def _limits(app: App) -> Iterator[Finding]:
    for level, text in (*lacking(app), *problems(app)):
        if level in _LEVELS:
            yield Finding(_LEVELS[level], text, "limit", fix=CHECK)


def _sizes(app: App) -> Iterator[Finding]:
    for name, why in refused_sizes(app).items():
        yield Finding("warning", size_refused(name, why), "machine", fix=CHECK)


def _schedule(app: App) -> Iterator[Finding]:
    if "documents" in app.operate(lambda backend: backend.features):
        for name, why in refused_entries(app).items():
            yield Finding("warning", entry_refused(name, why), "machine", fix=CHECK)


def _outbox(app: App) -> Iterator[Finding]:
    if not app.config.outbox.url:
        return
    state, advice = look(app)
    if is_late(state):
        yield Finding("warning", told(state), "backend", fix="jobsctl outbox")
    for text in advice:
        yield Finding("warning", text, "backend", fix=CHECK)
