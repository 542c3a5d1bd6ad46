"""`jobsctl init`, `setup`, `plugins`, `completion`: commands for setting up."""

from __future__ import annotations

import ast
from pathlib import Path

import click
import msgspec

from .. import limiting
from ..backends.base import Backend
from ..options import DEFAULT_TOPIC
from ..plugins import PluginInfo, Plugins
from ..topics import topic_error
from . import output
from .common import Context, fail, json_option, pass_context
from .exits import Exit
from .extensions import disable_fatal_plugins, reported
from .main import OURS
from .types import MODULE, URL
from .waiting import waiting

TEMPLATE = """\
# Configuration of jobs. Every key has a default; `jobsctl check --show` prints the effective values and their sources.
# Any key can be overridden: JOBS_BACKEND=redis://…, JOBS_POOLS__DEFAULT__WORKERS=8, JOBS_BACKEND_FILE=/run/secrets/url

# Where jobs are kept. Without this line: SQLite in run_dir, durable and shared by all processes of this machine.
#   sqlite:///jobs.db   redis://localhost:6379/0 (pip install jobs-redis)   amqp://localhost (pip install jobs-rabbitmq)
#   postgresql://user@localhost/database (pip install jobs-postgres)
{backend}
# The modules that define jobs, as in an import statement.
modules = ["{module}"]

# The framework they were written for, with its settings in a table of that name.
# framework = "flask"     # pip install jobs-flask

# A worker without a heartbeat for this long counts as dead; its jobs run again elsewhere.
# lease = "30s"

[pools.default]
topics = {topics}  # in strict order: the first topic with ready jobs is served
workers = 2               # processes; {{ min = 2, max = 8 }} grows with the backlog
mode = "sync"             # sync: one job at a time; threads; async: thousands
# concurrency = 1         # jobs at a time in one worker (threads, async)
# max_age = "1h"          # then a worker is replaced without a gap; also after max_jobs, or when it has grown by 500 MB

# [topics.default]
# retries = 3             # further attempts after the first
# timeout = "1m"          # of one run
# alert_above = 10000     # warn when more jobs are waiting
"""


@click.command("init")
@click.option("--backend", metavar="URL", type=URL, help="The backend to write (default: SQLite in the run directory).")
@click.option("--module", metavar="NAME", type=MODULE, default="tasks", show_default=True, help="The module that defines jobs.")
@click.option("--force", is_flag=True, help="Overwrite an existing jobs.toml.")
def init_command(backend: str | None, module: str, force: bool) -> None:
    """Write a commented jobs.toml into this directory, with a pool that serves the topics named in the module."""
    path = Path("jobs.toml")
    if path.exists() and not force:
        fail("jobs.toml already exists: --force overwrites it", Exit.USAGE)
    line = f"backend = {_toml(backend)}\n" if backend else '# backend = "sqlite:///jobs.db"\n'
    try:
        path.write_text(TEMPLATE.format(backend=line, module=module, topics=_toml(_topics_of(module))), encoding="utf-8")
    except OSError as error:
        fail(f"jobs.toml cannot be written: {error.strerror}")
    output.echo("Wrote jobs.toml. Next: `jobsctl check`, then `jobsctl start`.")


def _toml(value: str | list[str]) -> str:
    """Write a string, or a list of strings, as TOML."""
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()


def _topics_of(module: str) -> list[str]:
    """Return the topics of a module's job functions, including the default topic if one of them names none.

    The module is parsed, not imported. If it does not exist yet, return the topics of the README's application.
    """
    place = Path(*module.split("."))
    source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return ["email", DEFAULT_TOPIC]
    named = (
        keyword.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "topic" and isinstance(keyword.value, ast.Constant)
    )
    topics = [topic for topic in named if isinstance(topic, str) and not topic_error(topic)]
    return [*dict.fromkeys([*topics, DEFAULT_TOPIC])]


@click.command("setup")
@click.option("--sql", "as_sql", is_flag=True, help="Print the SQL instead of executing it.")
@click.option("--producer", metavar="ROLE", help="With --sql: also grant this role what it needs to enqueue.")
@click.option("--worker", metavar="ROLE", help="With --sql: also grant this role what workers and jobsctl need.")
@pass_context
def setup_command(context: Context, as_sql: bool, producer: str | None, worker: str | None) -> None:
    """Create what the backend needs, so that workers need no permission to do so, and define limits and fair topics in it.

    If only reviewed SQL may touch your database, --sql prints what this would execute. Only PostgreSQL has such SQL.
    """
    if as_sql:
        backend = context.app.new_backend()
        text = backend.setup_sql(producer or "", worker or "")
        if not text:
            fail(f"{backend.name}:// is not set up by SQL: call `jobsctl setup`", Exit.USAGE)
        output.script(text)
        return
    if producer or worker:
        fail("--producer and --worker belong to --sql, which prints the permissions of these roles", Exit.USAGE)

    def set_up(backend: Backend) -> None:
        backend.setup()
        limiting.define(backend, context.app.config)  # a topic is fair from its first job on, before a worker has started

    context.operate(set_up)
    output.echo("the backend is set up")


@click.command("plugins")
@json_option
@pass_context
def plugins_command(context: Context, as_json: bool) -> None:
    """List the plugins found, where they come from, how long their imports took, and what each provides."""
    killers = disable_fatal_plugins(lambda: reported(Plugins.discover(), OURS))
    with waiting("the plugins to be imported"):
        infos = reported(Plugins.discover(context.preferences), OURS)
    for info in infos:
        info.problems += [killers[info.name]] if info.name in killers else []
    if as_json:
        output.json(infos)
    else:
        output.table(["plugin", "from", "provides", "import", "state"], map(_plugin_row, infos))
    if any(info.problems for info in infos):
        for info in infos:
            if info.detail and not as_json:
                output.echo(f"\n{info}:\n{info.detail}", err=True)
        raise click.exceptions.Exit(Exit.FAILED)


def _plugin_row(info: PluginInfo) -> tuple[str, ...]:
    provides = "; ".join(f"{kind} {', '.join(names)}" for kind, names in info.provides.items())
    return (
        info.name,
        f"{info.distribution} {info.version}",
        provides or ", ".join(info.hooks) or "nothing",
        f"{info.seconds:.2f} s",
        "; ".join(info.troubles) or ("disabled by JOBS_DISABLE_PLUGINS" if info.disabled else "fine"),
    )


_POSIX_WRAPPER = """\
jobs() {
  case "$1" in
    NAMES) jobsctl "$@" ;;
    *) builtin jobs "$@" ;;
  esac
}
"""
_WRAPPERS = {
    "bash": _POSIX_WRAPPER,
    "zsh": _POSIX_WRAPPER,
    "fish": """\
function jobs
  if contains -- "$argv[1]" NAMES
    jobsctl $argv
  else
    builtin jobs $argv
  end
end
""",
}


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print code for a shell's start-up file: completion, and `jobs` itself.

    bash and zsh: eval "$(jobsctl completion bash)"; fish: jobsctl completion fish | source

    Shells have a builtin called `jobs`, which takes precedence. The script makes `jobs` run this program if the first
    argument is one of its commands, and the builtin otherwise.
    """
    from click.shell_completion import get_completion_class

    from .main import cli

    completion = get_completion_class(shell)
    assert completion is not None
    for name in ("jobsctl", "jobs"):
        output.script(completion(cli, {}, name, f"_{name.upper()}_COMPLETE").source())
    names = cli.list_commands(click.Context(cli))
    output.script(_WRAPPERS[shell].replace("NAMES", ("|" if shell != "fish" else " ").join(names)))
