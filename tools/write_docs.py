"""Writes the reference pages from the code: docs/hooks.md, docs/configuration.md, docs/cli.md. A test compares."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from jobs_core import config, hookspecs
from jobs_core.cli.main import GROUPS, cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

HOOKS_HEAD = """\
# Hooks

A plugin is a module that an entry point of the group `jobs` names; `jobs_core.hookimpl` marks its functions.

```python
# my_plugin.py
from jobs_core import hookimpl


@hookimpl
def jobs_job_finished(run, outcome):
    print(run.name, outcome.outcome.value, f"{outcome.seconds:.3f} s")
```

An implementation takes the arguments it wants, by name. Plugins are called one by one: a failure is logged with the
plugin's name and distribution and stops nobody, unless the hook says otherwise. `JOBS_DISABLE_PLUGINS=a,b` leaves plugins
out, `JOBS_TRACE_HOOKS=1` prints every call, `jobsctl plugins` shows what was found. A hook that nobody implements costs
nothing.
"""

CONFIGURATION_HEAD = """\
# Configuration

`jobs.toml`, or `[tool.jobs]` in `pyproject.toml`, in the directory a command is started in or in one above; `-c FILE` or
`JOBS_CONFIG` name another. A process that enqueues and was started elsewhere (a web server, cron) takes the one beside or
above the modules that define its jobs, and warns once. Everything has a default: with no file there is SQLite in the run
directory, and one pool.

Every key can be overridden by a variable: `JOBS_BACKEND=redis://…`, `__` for nesting (`JOBS_POOLS__MAIL__WORKERS__MAX=8`),
lists as TOML or `a,b` (`[]` for none; an empty variable is an error). A value can come from a file:
`JOBS_BACKEND_FILE=/run/secrets/url`. `jobsctl check --show` prints what is in force and where each value came from.
Reserved names: `JOBS_CONFIG`, `JOBS_SETTINGS`, `JOBS_FAILPOINT`, `JOBS_DISABLE_PLUGINS`, `JOBS_TRACE_HOOKS`.

Durations are seconds (`30`, in variables too: `JOBS_LEASE=30`) or texts such as `"500ms"`, `"30s"`, `"1h30m"`, `"7d"`; sizes
are bytes or texts such as `"64KB"`, `"1MB"`, `"2GiB"`. Relative paths start at the configuration's directory. An unknown key
is an error that names the nearest known one.

What cannot work is refused by every command before it begins, with exit code 2 and a line that names file, key and what is
expected: a lease of 0, a table of pools without one, an address that is none, a value beyond what clocks and stores hold
(durations end at 1e9 s). `jobsctl check` and `start` also try what depends on the machine: the run directory, `logs.file`,
`http.listen`, the store of results, the embedded broker. What they try leaves nothing behind.
"""

CLI_HEAD = """\
# The command line

`jobsctl COMMAND --help` says the same. `jobs` is the same program, but every shell has a builtin of that name, which wins when
typed bare; after `eval "$(jobsctl completion bash)"` (or `zsh`) ours wins.

On a terminal, lists are tables; in a pipe, they are tab-separated lines without a heading, and many commands have `--json`
for scripts. Commands that destroy something ask first, or want `--yes`. Exit codes: 0 fine, 1 failed, 2 usage or
configuration, 3 not running, 69 backend unavailable.

Before the command: `-c FILE` names the configuration, `--version` the version.
"""


def hooks() -> str:
    """docs/hooks.md."""
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
    """docs/configuration.md."""
    parts = [CONFIGURATION_HEAD]
    sections = [
        ("Top level", config.Config),
        ("[pools.NAME]", config.Pool),
        ("[pools.NAME] workers = { min, max }", config.Workers),
        ("[topics.NAME]", config.Topic),
        ("[results]", config.Results),
        ("[logs]", config.Logs),
        ("[http]", config.Http),
        ("[alerts]", config.Alerts),
        ("[schedule.NAME]", config.ScheduleEntry),
        ("[broker]", config.Broker),
    ]
    tables = {"pools", "topics", "results", "logs", "http", "alerts", "schedule", "broker"}
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
    """What the comment beside each field says."""
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
    """docs/cli.md."""
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
        for sub in command.commands:
            parts += _command(f"{name} {sub}", command.commands[sub])
    return parts


PAGES = {"hooks.md": hooks, "configuration.md": configuration, "cli.md": commands}


def main() -> None:
    for name, write in PAGES.items():
        (DOCS / name).write_text(write(), encoding="utf-8")
        print(f"docs/{name}", file=sys.stderr)


if __name__ == "__main__":
    main()
