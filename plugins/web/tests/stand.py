"""A shop with real workers, as `jobsctl start` runs them, and its dashboard, as `jobsctl web` serves it."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace
from tests.support.project import PATIENCE, Process, Project, until
from tests.support.supervised import Supervised

from jobs_core import App, State
from jobs_core.message import new_message
from jobs_core.testing.services import free_port

TASKS = '''
"""The jobs of a shop."""
from pathlib import Path
from jobs_core import current_job, job

HERE = Path(__file__).parent

@job(retries=0, topic="mail")
def charge(customer: str, amount: int = 1) -> int:
    current_job().progress(1, 3, f"asked the bank of {customer}")
    current_job().log(f"the bank of {customer} answered")
    with (HERE / "charged").open("a") as ledger:
        ledger.write(f"{customer}\\n")
    if amount < 100:
        raise ConnectionError(f"the bank refused {customer}")
    return amount

@job(retries=0, topic="mail")
def write(to: str) -> None:
    raise ValueError("no such mailbox")

@job(retries=0, topic="mail")
def remind(to: str) -> None:
    raise TimeoutError("the server was too slow")

@job
def pack(order: int) -> int:
    return order

@job(topic="slow")
async def hold(name: str) -> None:
    """Runs until a file is there, or it is cancelled."""
    import asyncio
    while not (HERE / name).exists():
        await asyncio.sleep(0.01)

@job(topic="parked")
def later(order: int) -> None: ...

@job(topic="parked", limits=("bank",))
def ask(order: int) -> None: ...

@job(cron="0 6 1 1 *", topic="parked")
def report() -> None: ...

@job
def order(name: str) -> None:
    """Enqueue a flow of two jobs, of which the first fails."""
    from jobs_core import Flow
    with Flow(name) as flow:
        flow.add(pack.call(1), after=flow.add(charge.call(name)))
'''

SETTINGS = """
[pools.default]
workers = 2
topics = ["default", "mail"]

[pools.slow]
workers = 1
mode = "async"
topics = ["slow"]

[topics.parked]
serve = false

[limits.bank]
concurrency = 5
"""


class Shop:
    """A project on one backend: a supervisor with three workers, and the dashboard. It ends with `close`."""

    def __init__(self, root: Path, backend: str) -> None:
        self.project = Project(root, TASKS)
        self.project.configure(SETTINGS, backend=f'backend = "{backend}"')
        self.supervised = Supervised(self.project, ready=False)
        self.port = free_port()
        self.web = self.serve()
        self.supervised.process.until_said(" ready: ")
        self.app: App = self.project.app()

    def serve(self) -> Process:
        """Serve the dashboard, always at the same address; `login` is the link that it prints."""
        web = self.project.start("web", "--listen", f"127.0.0.1:{self.port}")
        self.login = web.until_said("the dashboard is at").split()[4]
        return web

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def later(self, order: int) -> str:
        """Enqueue a job that is due in an hour; return its id."""
        message = new_message("tasks.later", "parked", [order], {})
        self.app._producer.push([replace(self.app.outgoing(message), delay=3600.0)], PATIENCE)
        return message.id

    def state(self, job_id: str) -> State | None:
        record = self.app.find(job_id)
        return None if record is None else record.state

    def until_in(self, state: State | None, job_id: str) -> None:
        until(lambda: self.state(job_id) is state)

    def dead(self, job: str, *args: object) -> str:
        """Enqueue a job that fails, and return its id once it is dead."""
        job_id = self.project.push(job, *args, topic="mail")
        self.until_in(State.DEAD, job_id)
        return job_id

    def charged(self, customer: str) -> int:
        """Return how often a customer was charged."""
        ledger = self.project.root / "charged"
        return ledger.read_text().splitlines().count(customer) if ledger.exists() else 0

    def failed_flow(self, name: str) -> str:
        """Enqueue a flow whose first member fails; return its id once it has failed."""
        self.project.push("order", name)

        def failed() -> str:
            found = self.app.operate(lambda backend: backend.flows(100))
            return next((flow.id for flow in found if flow.name == name and flow.state == "failed"), "")

        return str(until(failed))

    def close(self) -> None:
        self.project.close()
