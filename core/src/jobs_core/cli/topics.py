"""`jobsctl topics`, `pause`, `resume`, `purge`: whole topics."""

from __future__ import annotations

import click
import msgspec

from ..backends.base import Backend, Counts, State
from ..units import format_duration
from . import output
from .common import Context, confirm, json_option, pass_context, topic_argument, yes_option


@click.command("topics")
@json_option
@pass_context
def topics_command(context: Context, as_json: bool) -> None:
    """Show every topic with its jobs by state, the age of its oldest ready job, and who serves it."""
    config = context.app.config
    configured = set(config.topics) | config.served_topics()

    def look(backend: Backend) -> tuple[list[str], dict[str, Counts], frozenset[str]]:
        known = backend.topics() if "browse" in backend.features else []
        names = sorted(configured | set(known))
        return names, backend.counts(names), backend.paused()

    names, counts, paused = context.operate(look)
    served = {name: [pool for pool, settings in config.pools.items() if name in settings.topics] for name in names}
    if as_json:
        output.json(
            {name: {**msgspec.to_builtins(counts[name]), "paused": name in paused, "pools": served[name]} for name in names}
        )
        return
    rows = [
        (
            name,
            count.ready,
            count.scheduled,
            count.reserved,
            count.dead,
            "" if count.oldest_age is None else format_duration(round(count.oldest_age)),
            ", ".join(served[name]) or ("nobody" if config.nobody_serves(name) else "others"),
            "paused" if name in paused else "",
        )
        for name, count in counts.items()
    ]
    output.table(["topic", "ready", "scheduled", "reserved", "dead", "oldest", "served by", ""], rows)


@click.command("pause")
@topic_argument
@pass_context
def pause_command(context: Context, topic: str) -> None:
    """Hand out no more jobs of TOPIC, to any worker, until it is resumed."""
    context.operate(lambda backend: backend.pause(topic))
    output.echo(f"{topic} is paused; what runs goes on. `jobsctl resume {topic}` ends it")


@click.command("resume")
@topic_argument
@pass_context
def resume_command(context: Context, topic: str) -> None:
    """Hand out jobs of a paused TOPIC again."""
    context.operate(lambda backend: backend.resume(topic))
    output.echo(f"{topic} is served again")


@click.command("purge")
@topic_argument
@click.option(
    "--state",
    type=click.Choice(["ready", "scheduled", "waiting"]),
    default="waiting",
    show_default=True,
    help="Which jobs: waiting are ready and scheduled ones. Dead letters: `jobsctl dead purge`.",
)
@click.option("--inlet", is_flag=True, help="What foreign producers have pushed and nobody has taken in yet, instead.")
@yes_option
@pass_context
def purge_command(context: Context, topic: str, state: str, inlet: bool, yes: bool) -> None:
    """Delete the waiting jobs of TOPIC for good. Running ones are left alone."""
    if inlet:
        confirm(f"Delete all that stands in the inlet of {topic} for good?", yes)
        output.echo(f"{context.operate(lambda backend: backend.purge_inlet(topic))} entries deleted")
        return
    states = [State.READY, State.SCHEDULED] if state == "waiting" else [State(state)]
    confirm(f"Delete all {state} jobs of {topic} for good?", yes)
    deleted = context.operate(lambda backend: sum(backend.purge(topic, state) for state in states))
    output.echo(f"{deleted} jobs deleted")
