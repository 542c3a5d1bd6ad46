"""`jobsctl why`: explain in one answer why a job does not run, ran twice or is dead."""

from __future__ import annotations

import contextlib

import click

from ..errors import BackendUnavailable, JobsError
from ..escapes import in_one_line
from ..operating.explain import explain
from ..operating.this_machine import ThisMachine
from ..worker.main import prepare
from . import output
from .common import Context, json_option, pass_context
from .exits import Exit
from .types import JOB_ID
from .waiting import importing_application


@click.command("why")
@click.argument("job_id", metavar="ID", type=JOB_ID)
@json_option
@pass_context
def why_command(context: Context, job_id: str, as_json: bool) -> None:
    """Explain why a job does not run, ran twice or is dead.

    Checks the backend, the configuration, the code and the processes on this machine. Exit code 1 for an unknown job. If the
    backend cannot look up single jobs, it reports what keeps jobs waiting here, and "known" is null in JSON.
    """
    # Modules that cannot be imported are the business of `jobsctl check`; the rest of the answer does not need them.
    with contextlib.suppress(JobsError), importing_application():
        prepare(context.app)
    here = ThisMachine(context.app)
    try:
        job_id = context.whole_id(job_id)
        found = context.operate(lambda backend: explain(context.app, backend, job_id, here))
    except BackendUnavailable:
        for reason in here.of_running(job_id):  # the scoreboard of this machine needs no backend
            output.echo(f"- {in_one_line(reason)}")
        raise
    if as_json:
        output.json({"id": job_id, "known": found.known, "reasons": found.reasons})
    else:
        for reason in found.reasons:
            output.echo(f"- {in_one_line(reason)}")
    if found.known is False:
        raise click.exceptions.Exit(Exit.FAILED)
