"""Write the pages that are generated from the code, and the JSON Schema of the envelope, into docs/. A test compares them."""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from jobs_core import config, hookspecs
from jobs_core.cli.main import GROUPS, cli
from jobs_core.message import PACKED_RESULTS_VERSION, PACKED_VERSION, VERSION, Message, PackedMessage

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

HOOKS_HEAD = """\
# Hooks

A plugin is a module that an entry point of the group `jobs` names. It marks functions with `jobs_core.hookimpl`.

```python
# my_plugin.py
from jobs_core import hookimpl


@hookimpl
def jobs_job_finished(run, outcome):
    print(run.name, outcome.outcome.value, f"{outcome.seconds:.3f} s")
```

An implementation declares only the arguments that it needs, by name. Plugins are called one by one: a failure is logged
with the plugin's name and distribution and affects nothing else, unless the hook says "fatal: yes".
`JOBS_DISABLE_PLUGINS=a,b` disables plugins, `JOBS_TRACE_HOOKS=1` prints every call, and `jobsctl plugins` lists the plugins
that were found. A hook without an implementation costs nothing.
"""

CONFIGURATION_HEAD = """\
# Configuration

The configuration is `jobs.toml`, or `[tool.jobs]` in `pyproject.toml`. Commands look for it in the current directory and in
those above; `-c FILE` or `JOBS_CONFIG` selects another file. A process that enqueues and was started elsewhere (a web
server, cron) uses the file beside or above the modules that define its jobs, and warns once. Every key has a default: without
a file, jobs are kept in SQLite in the run directory, and there is one pool.

A variable can override every key: `JOBS_BACKEND=redis://…`, with `__` for nesting (`JOBS_POOLS__MAIL__WORKERS__MAX=8`). Lists
are written as TOML or as `a,b` (`[]` for an empty list; an empty variable is an error). A value can come from a file:
`JOBS_BACKEND_FILE=/run/secrets/url`. `jobsctl check --show` prints every effective value and its origin.
Reserved names: `JOBS_CONFIG`, `JOBS_SETTINGS`, `JOBS_FAILPOINT`, `JOBS_DISABLE_PLUGINS`, `JOBS_TRACE_HOOKS`,
`JOBS_TRANSPORT` (`library`: the connections to Redis and RabbitMQ are entirely those of redis-py and pika, which are slower;
[transport.md](transport.md)).

Durations are seconds (`30`, in variables too: `JOBS_LEASE=30`) or strings such as `"500ms"`, `"30s"`, `"1h30m"`, `"7d"`; sizes
are bytes or strings such as `"64KB"`, `"1MB"`, `"2GiB"`. Relative paths are relative to the configuration's directory. An
unknown key is an error that names the most similar known key.

Every command refuses an impossible configuration before it starts, with exit code 2 and a line that names the file, the key
and the expected value. Examples are a lease of 0, a `[pools]` table without a pool, a malformed address, and a value that
clocks and backends cannot hold (durations end at 1e9 s). `jobsctl check` and `start` also test whatever depends on the machine:
the run directory, `logs.file`, `http.listen`, the store of results, the embedded broker. These tests leave nothing behind.
"""

CLI_HEAD = """\
# The command line

`jobsctl COMMAND --help` shows the same text. `jobs` is the same program, but every shell has a builtin of that name, which
takes precedence; after `eval "$(jobsctl completion bash)"` (or `zsh`), `jobs` runs this program.

On a terminal, lists are tables. In a pipe, they are tab-separated lines without a heading; many commands have `--json`
for scripts. Commands that destroy something ask for confirmation first, unless you pass `--yes`. Exit codes: 0 success,
1 failure, 2 usage error or invalid configuration, 3 not running, 69 backend unavailable.

Options before the command: `-c FILE` selects the configuration, `--version` prints the version.
"""


def hooks() -> str:
    """Return docs/hooks.md."""
    source = inspect.getsource(hookspecs)
    parts = [HOOKS_HEAD]
    for section, name in re.findall(r"^# -- (.*?) -+$|^def (jobs_\w+)", source, re.MULTILINE):
        if section:
            parts.append(f"## {section.strip()}\n")
            continue
        spec = getattr(hookspecs, name)
        parts.append(f"### {name}({', '.join(inspect.signature(spec).parameters)})\n")
        for paragraph in inspect.cleandoc(spec.__doc__).split("\n\n"):
            parts.append(_paragraph(paragraph) + "\n")
    return "\n".join(parts).rstrip() + "\n"


def _paragraph(text: str) -> str:
    if not text.startswith(":"):
        return text
    fields = [" ".join(field.split()) for field in re.split(r"\n(?=:)", text)]
    return "\n".join(re.sub(r"^:param (\w+):", r"- `\1`:", field).replace(":return:", "- returns") for field in fields)


def configuration() -> str:
    """Return docs/configuration.md."""
    parts = [CONFIGURATION_HEAD]
    sections = [
        ("Top level", config.Config),
        ("[pools.NAME]", config.Pool),
        ("[pools.NAME] workers = { min, max }", config.Workers),
        ("[topics.NAME]", config.Topic),
        ("[limits.NAME]", config.Limit),
        ("[defaults]", config.Defaults),
        ("[results]", config.Results),
        ("[outbox]", config.Outbox),
        ("[payloads]", config.Payloads),
        ("[logs]", config.Logs),
        ("[http]", config.Http),
        ("[alerts]", config.Alerts),
        ("[webhooks.NAME]", config.Webhook),
        ("[schedule.NAME]", config.ScheduleEntry),
        ("[broker]", config.Broker),
    ]
    tables = {
        "pools",
        "topics",
        "limits",
        "defaults",
        "results",
        "outbox",
        "payloads",
        "logs",
        "http",
        "alerts",
        "webhooks",
        "schedule",
        "broker",
    }
    for title, kind in sections:
        parts.append(f"## {title}\n\n{kind.__doc__}\n\n| key | default | meaning |\n| --- | --- | --- |")
        comments = _comments(kind)
        for field in msgspec.structs.fields(kind):
            if field.name == "base_dir" or (kind is config.Config and field.name in tables):
                continue
            parts.append(f"| `{field.name}` | {_default(field)} | {comments[field.name]} |")
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _comments(kind: type) -> dict[str, str]:
    """Return the comments beside the fields."""
    found = {}
    for line in inspect.getsource(kind).splitlines():
        match = re.match(r"    (\w+): .*?  # (.*)$", line) or re.match(r"    (\w+): ", line)
        if match:
            found[match[1]] = (match[2] if match.lastindex == 2 else "").replace("|", "\\|")
    return found


def _default(field: Any) -> str:
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if value is msgspec.NODEFAULT or value is msgspec.UNSET:
        return "required"
    if value is None:
        return "none"
    if isinstance(value, (config.Duration, config.Size)):
        return f'`"{value}"`'
    if isinstance(value, msgspec.Struct):
        return "see below"
    return f"`{msgspec.json.encode(value).decode()}`"


def commands() -> str:
    """Return docs/cli.md."""
    parts = [CLI_HEAD]
    context = click.Context(cli)
    for group, members in GROUPS.items():
        parts.append(f"## {group}\n")
        for name in members:
            command = cli.get_command(context, name)
            assert command is not None
            parts += _command(f"jobsctl {name}", command)
    return "\n".join(parts).rstrip() + "\n"


def _command(name: str, command: click.Command) -> list[str]:
    context = click.Context(command, info_name=name)
    pieces = [piece for parameter in command.params for piece in parameter.get_usage_pieces(context)]
    parts = [f"### {' '.join([name, *pieces])}\n", inspect.cleandoc(command.help or "").replace("\b\n", "") + "\n"]
    rows = [record for parameter in command.get_params(context) if (record := parameter.get_help_record(context))]
    rows = [(option, text) for option, text in rows if "--help" not in option]
    if rows:
        parts.append("| option | meaning |\n| --- | --- |")
        parts += [f"| `{option.replace('|', '/')}` | {text.replace('|', '/')} |" for option, text in rows]
        parts.append("")
    if isinstance(command, click.Group):
        for sub in (name for name, one in command.commands.items() if not one.hidden):
            parts += _command(f"{name} {sub}", command.commands[sub])
    return parts


def envelope() -> str:
    """Return docs/envelope.schema.json."""
    schemas, components = msgspec.json.schema_components([Message, PackedMessage], ref_template="#/$defs/{name}")
    for part in components.values():  # docstrings are indented up to Python 3.12
        part["description"] = inspect.cleandoc(part["description"])
    versions = (("Message", VERSION, PACKED_VERSION), ("PackedMessage", PACKED_VERSION, PACKED_RESULTS_VERSION))
    for name, plain, taking in versions:  # an envelope that takes results is for workers that put them in
        components[name]["if"] = {"required": ["results"]}
        components[name]["then"] = {"properties": {"v": {"const": taking}}}
        components[name]["else"] = {"properties": {"v": {"const": plain}}}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "jobs envelope, versions 1 and 2"}
    head["description"] = "Version 3 is an envelope of version 2 that has both a body and results."
    schema = {"anyOf": list(schemas), "$defs": components}
    return json.dumps({**head, **schema}, indent=2, ensure_ascii=False) + "\n"


PAGES = {"hooks.md": hooks, "configuration.md": configuration, "cli.md": commands, "envelope.schema.json": envelope}


def main() -> None:
    for name, write in PAGES.items():
        (DOCS / name).write_text(write(), encoding="utf-8")
        print(f"docs/{name}", file=sys.stderr)


if __name__ == "__main__":
    main()
