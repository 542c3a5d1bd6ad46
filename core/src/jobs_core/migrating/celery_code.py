"""Read the code of a Celery application: what its tasks take from Celery, and where they are called."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from .. import foreign
from .plan import Change

MOST_FILES = 20_000
"""Files that are searched for calls at most; a project has fewer, a home directory may not."""

CANVAS = 'see "From Celery\'s canvas"'

_REQUEST = {
    "id": "current_job().id",
    "root_id": "current_job().flow",
    "retries": "current_job().attempt - 1",
    "args": "current_job().message.args",
    "kwargs": "current_job().message.kwargs",
    "delivery_info": "current_job().topic",
    "headers": "current_job().headers",
}
"""Attributes of `self.request`."""

_OPTIONS = {
    "countdown": "delay",
    "eta": "at",
    "queue": "topic",
    "routing_key": "topic",
    "priority": "priority",
    "task_id": "id",
    "soft_time_limit": "timeout",
    "time_limit": "timeout",
    "headers": "headers",
}
"""Options of `apply_async`, and the keywords of `using`."""

_DROPPED = {
    "ignore_result",
    "serializer",
    "compression",
    "retry",
    "retry_policy",
    "connection",
    "producer",
    "exchange",
    "shadow",
}
"""Options of `apply_async` that say nothing here."""


def is_using(tree: ast.AST, itself: str, method: str) -> bool:
    """Return whether the code calls a method of its task, such as `self.retry`."""
    return any(
        isinstance(node, ast.Attribute) and node.attr == method and isinstance(node.value, ast.Name) and node.value.id == itself
        for node in ast.walk(tree)
    )


def changes_in_task(tree: ast.AST, itself: str, file: str, first: int) -> Iterator[Change]:
    """Yield the lines of a bound task that use the task, which its parameter `itself` names; `first` is its first line."""

    def change(node: ast.expr | ast.Raise, new: str) -> Change:
        return Change(file, first + node.lineno - 1, ast.unparse(node), new)

    seen: set[int] = set()
    for node in ast.walk(tree):
        if id(node) in seen:
            continue
        if isinstance(node, ast.Raise) and node.exc is not None and _is_of(node.exc, itself, "retry"):
            seen.update(map(id, ast.walk(node)))
            cause = next((ast.unparse(each.value) for each in _keywords(node.exc) if each.arg == "exc"), "")
            yield change(node, f"raise {_retry(node.exc)}" + (f" from {cause}" if cause else ""))
        elif isinstance(node, ast.Call) and _is_of(node, itself, "retry"):
            seen.update(map(id, ast.walk(node)))
            yield change(node, f"raise {_retry(node)}")
        elif isinstance(node, ast.Attribute) and _is_of(node.value, itself, "request"):
            seen.update(map(id, ast.walk(node)))
            word = foreign.CONTEXT.get(node.attr)
            yield change(node, _REQUEST.get(node.attr) or (word.code if word else "") or "nothing like it here")
        elif isinstance(node, ast.Call) and _is_of(node, itself, "update_state"):
            seen.update(map(id, ast.walk(node)))
            yield change(node, "current_job().progress(done, total, message)")
        elif isinstance(node, ast.Call) and (_is_of(node, itself, "replace") or _is_of(node, itself, "add_to_chord")):
            seen.update(map(id, ast.walk(node)))
            yield change(node, f"current_job().flow.add(...), {CANVAS}")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == itself:
            yield change(node, _of_task(node.attr))


def _of_task(attribute: str) -> str:
    if attribute == "name":
        return "current_job().name"
    if attribute == "max_retries":
        return "current_job().retries"
    return "an attribute of the module, or a provided resource: a job has no object of its own"


def _is_of(node: ast.expr, itself: str, name: str) -> bool:
    """Return whether the expression is an attribute of the task, or a call of it."""
    target = node.func if isinstance(node, ast.Call) else node
    return (
        isinstance(target, ast.Attribute)
        and target.attr == name
        and isinstance(target.value, ast.Name)
        and target.value.id == itself
    )


def _keywords(node: ast.expr) -> list[ast.keyword]:
    return node.keywords if isinstance(node, ast.Call) else []


def _retry(node: ast.expr) -> str:
    """Return what stands for a call of `self.retry`."""
    delay = next((ast.unparse(each.value) for each in _keywords(node) if each.arg == "countdown"), "")
    return f"Retry(delay={delay})" if delay else "Retry()"


def calls(directory: Path, functions: Collection[str], names: Collection[str]) -> Iterator[Change]:
    """Yield the calls, in the files of a directory, of tasks that have these names of functions or of tasks."""
    for number, file in enumerate(sources(directory)):
        if number == MOST_FILES:
            return
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        place = str(file.relative_to(directory))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (new := _call(node, functions, names)):
                yield Change(place, node.lineno, ast.unparse(node), new)


def sources(directory: Path) -> Iterator[Path]:
    """Yield the Python files of a project, sorted; not those of environments, caches and hidden directories."""
    for parent, below, files in os.walk(directory):
        below[:] = sorted(each for each in below if _belongs(Path(parent, each)))
        yield from (Path(parent, name) for name in sorted(files) if name.endswith(".py"))


def _belongs(directory: Path) -> bool:
    name = directory.name
    return not name.startswith(".") and name not in ("node_modules", "__pycache__") and not (directory / "pyvenv.cfg").exists()


def _call(node: ast.Call, functions: Collection[str], names: Collection[str]) -> str:
    """Return what stands for the call of a task; "" if it is none."""
    if not isinstance(node.func, ast.Attribute):
        return ""
    method, owner = node.func.attr, node.func.value
    if method == "send_task":
        name = node.args[0] if node.args else None
        known = isinstance(name, ast.Constant) and name.value in names
        return "import the job function, and enqueue it" if known else ""
    if _last(owner) not in functions:
        return ""
    return _NEW[method](ast.unparse(owner), node) if method in _NEW else ""


def _last(node: ast.expr) -> str:
    """Return the last part of a dotted name."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _arguments(node: ast.Call) -> str:
    return ", ".join([*map(ast.unparse, node.args), *(ast.unparse(each) for each in node.keywords)])


def _apply_async(owner: str, node: ast.Call) -> str:
    """Return `using(...).enqueue(...)` for `apply_async(args, kwargs, **options)`."""
    given = dict(zip(("args", "kwargs"), node.args, strict=False))
    options: dict[str, str] = {}
    left: list[str] = []
    for keyword in node.keywords:
        if keyword.arg in ("args", "kwargs"):
            given[keyword.arg] = keyword.value
        elif keyword.arg == "expires":  # seconds, or a point in time
            relative = isinstance(keyword.value, ast.Constant)
            options["expires" if relative else "expires_at"] = ast.unparse(keyword.value)
        elif keyword.arg in _OPTIONS:
            options.setdefault(_OPTIONS[keyword.arg], ast.unparse(keyword.value))
        elif keyword.arg is None:
            left.append(f"**{ast.unparse(keyword.value)}")
        elif keyword.arg not in _DROPPED:
            left.append(keyword.arg)
    positional = _spread(given.get("args"), "*")
    named = _spread(given.get("kwargs"), "**")
    using = ", ".join(f"{name}={value}" for name, value in options.items())
    call = f"{owner}{f'.using({using})' if using else ''}.enqueue({', '.join(filter(None, (positional, named)))})"
    return f"{call}, and {CANVAS} for {', '.join(left)}" if left else call


def _spread(node: ast.expr | None, stars: str) -> str:
    """Return the arguments that a tuple, a list or a dict of `apply_async` stands for."""
    if node is None or (isinstance(node, ast.Constant) and node.value is None):
        return ""
    if isinstance(node, (ast.Tuple, ast.List)):
        return ", ".join(map(ast.unparse, node.elts))
    if isinstance(node, ast.Dict):
        names = [key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
        if len(names) == len(node.keys) and all(map(str.isidentifier, names)):
            return ", ".join(f"{name}={ast.unparse(value)}" for name, value in zip(names, node.values, strict=True))
    return f"{stars}{ast.unparse(node)}"


def _signature(owner: str, node: ast.Call) -> str:
    return f"{owner}.step({_arguments(node)}) in a chain or after a group, else {owner}.call({_arguments(node)})"


_NEW: dict[str, Callable[[str, ast.Call], str]] = {
    "delay": lambda owner, node: f"{owner}.enqueue({_arguments(node)})",
    "apply_async": _apply_async,
    "apply": lambda owner, node: f"{owner}(...)",
    "s": _signature,
    "si": lambda owner, node: f"{owner}.call({_arguments(node)})",
    "signature": lambda owner, node: f"{owner}.call(...), {CANVAS}",
    "subtask": lambda owner, node: f"{owner}.call(...), {CANVAS}",
    "map": lambda owner, node: f"group({owner}.call(each) for each in ...)",
    "starmap": lambda owner, node: f"group({owner}.call(*each) for each in ...)",
    "chunks": lambda owner, node: f"a group of jobs that take a list, {CANVAS}",
    "AsyncResult": lambda owner, node: f"{owner}.handle({_arguments(node)})",
}
"""Methods of a task, and what stands for their calls."""
