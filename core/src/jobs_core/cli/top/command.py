"""The command `jobsctl top`."""

from __future__ import annotations

import sys
import time

import click

from ...supervisor import pidfile
from .. import output
from ..common import Context, pass_context
from ..status import here
from ..types import Number
from .page import Page


@click.command("top")
@click.option("--once", is_flag=True, help="Print one page after one interval and exit, as in a pipe.")
@click.option("--interval", type=Number(min=0.05, max=60), default=1.0, show_default=True, help="Seconds between updates.")
@pass_context
def top_command(context: Context, once: bool, interval: float) -> None:
    """Show running jobs and their rates, live; browse topics, jobs, dead letters and machines, and act on them.

    Press 1 to 5 to change the view, ? for all keys; q or Ctrl-C quits. Every action is a command, which is shown and confirmed
    first.

    Rates are jobs done and failed attempts a second since the last update, on this machine; the graph shows the last minute of
    each topic. The first view sends no request to the supervisor or the backend. The others read a bounded number of jobs, and
    the backend spends at most a twentieth of the time on them.
    """
    directory = context.place.run_dir
    if once or not output.on_terminal() or not sys.stdin.isatty():
        page = Page()
        page.look(here(directory))
        time.sleep(interval)
        page.look(here(directory))
        page.print()
        return
    if pidfile.running(directory) is None and not context.effective.sources:  # without a configuration, there is no backend
        here(directory)
    from .screen import Screen  # late: a page in a pipe needs none of it

    Screen(context, interval).run()
