"""The views of the machines that share the backend, with their pools, and of the workers of this machine."""

from __future__ import annotations

from ...backends.base import JobRecord, State
from ...errors import NotSupported
from ...machines import MachineReport, PoolReport, machine_name, reports
from ...operating.formatting import age, count, size
from ...operating.overview import Overview, WorkerLine
from ...scoreboard.state import Board
from ...scoreboard.view import TAKING
from ..common import Context
from ..control import MOST_WORKERS
from .acting import Act
from .drawing import BAD, WARN, Column, clipped
from .jobs import LONGEST_ID, JobView, action
from .page import Page
from .views import Desk, Row, TableView, TextView

HERE = ""
"""Name of the machine in a report that was made from the scoreboard, because the backend keeps none."""


class MachinesView(TableView):
    """The machines, and below each its pools. If the backend keeps no reports, this machine alone."""

    title = "machines"
    interval = 2.0
    keys = (("Enter", "details"), ("p", "quiet or resume"), ("s", "scale"), ("a", "auto size"), ("R", "reload"))
    nothing = "no machine has reported within 30 s: `jobsctl start` starts one"
    columns = (
        Column("machine or pool"), Column("state"), Column("workers"), Column("jobs", 1), Column("memory", 3),
        Column("done", 2), Column("failed", 2), Column("crashed", 4), Column("generation", 5), Column("seen", 3),
        Column("topics or error", 1),
    )  # fmt: skip

    def __init__(self, page: Page) -> None:
        super().__init__()
        self._page = page
        self._reports: list[MachineReport] = []
        self._name = ""
        self._alone = ""  # why other machines are not shown

    def read(self, context: Context) -> None:
        self._name = machine_name(context.place.run_dir)
        try:
            self._reports = context.operate(reports)
            self._alone = ""
        except NotSupported as error:
            self._reports = _own(self._page.board)
            self._alone = str(error)

    def heading(self) -> str:
        if self._alone:
            return f"this machine only: {self._alone}"
        return count(len(self._reports), "machine") + (f", with {self.filter!r}" if self.filter else "")

    def rows(self) -> list[Row]:
        return [
            row for report in self._reports for row in (self._machine(report), *(_pool(report, pool) for pool in report.pools))
        ]

    def _machine(self, report: MachineReport) -> Row:
        serving, wanted = sum(pool.serving for pool in report.pools), sum(pool.wanted for pool in report.pools)
        here = " (here)" if report.name in (self._name, HERE) else ""
        cells = (
            f"{report.name or 'this machine'}{here if report.name else ''}", report.state, f"{serving}/{wanted}",
            f"{report.running:,}", size(report.memory), f"{report.done:,}", f"{report.failed:,}", f"{report.crashed:,}",
            str(report.generation), f"{age(report.age)} ago" if report.name else "",
            f"last reload refused: {report.last_refusal}" if report.last_refusal else "",
        )  # fmt: skip
        return Row(report.name, cells, (report, None), WARN if report.state == "quiet" or report.last_refusal else "")

    def use(self, key: str, row: Row, desk: Desk) -> bool:
        report: MachineReport
        pool: PoolReport | None
        report, pool = row.item
        if key in ("enter", "right"):
            words = ("machines", "show", "--", report.name) if report.name else ("status", "--all")
            desk.open(TextView(f"machine {report.name or 'here'}", words))
        elif key == "p":
            desk.act(_quiet(report, pool))
        elif key == "R":
            desk.act(_reload(report))
        elif key in ("s", "a") and pool is None:
            desk.say("choose a pool: machines have no size of their own")
        elif key == "s" and pool is not None:
            desk.prompt(f"workers of pool {pool.name}, now {pool.wanted}", "", lambda text: _scale(report, pool, text, desk))
        elif key == "a" and pool is not None:
            desk.act(_auto(report, pool))
        else:
            return False
        return True


def _pool(report: MachineReport, pool: PoolReport) -> Row:
    told = pool.last_error or ", ".join(pool.topics)
    cells = (f"  pool {pool.name}", "quiet" if pool.quiet else "", f"{pool.serving}/{pool.wanted}", *[""] * 7, told)
    style = BAD if pool.last_error else WARN if pool.quiet else ""
    return Row(f"{report.name}\0{pool.name}", cells, (report, pool), style)


def _own(board: Board) -> list[MachineReport]:
    """Return the report of this machine, from its scoreboard."""
    it = board.supervisor
    if it is None:
        return []
    view = Overview(board, most=None)
    ended = view.ended()
    pools = [
        PoolReport(
            pool.name, pool.topics, pool.wanted,
            sum(line.pool == pool.name and line.state in TAKING for line in view.workers),
            pool.max, pool.quiet, pool.last_error,
        )
        for pool in it.pools
    ]  # fmt: skip
    return [
        MachineReport(
            HERE, it.host, "", it.pid, it.version, it.state, it.started_at, it.generation, pools,
            sum(line.running_count for line in view.workers), [], sum(line.memory for line in view.workers), ended["done"],
            ended["retry"] + ended["dead"], it.crashed, it.last_refusal,
        )
    ]  # fmt: skip


def _of(report: MachineReport) -> str:
    return f"machine {report.name}" if report.name else "this machine"


def _quiet(report: MachineReport, pool: PoolReport | None) -> Act:
    """Return the action that quiets a machine or one of its pools; or lets it take jobs again, if it is quiet."""
    on = not (pool.quiet if pool else report.state == "quiet")
    what = f"pool {pool.name} of {_of(report)}" if pool else _of(report)
    workers = pool.serving if pool else sum(each.serving for each in report.pools)
    about = (
        f"{count(workers, 'worker')} finish the running jobs and take no new ones."
        if on
        else f"{count(workers, 'worker')} take jobs again."
    )
    words = ("machines", "quiet" if on else "resume", *(("--pool", pool.name) if pool else ()), "--", report.name)
    if not report.name:
        words = ("quiet", *(() if on else ("--off",)))
        what = _of(report)
    return Act(about, words, f"Quiet {what}?" if on else f"Let {what} take jobs again?")


def _reload(report: MachineReport) -> Act:
    words = ("machines", "reload", "--", report.name) if report.name else ("reload",)
    about = "New workers start with the code and configuration installed there; the old ones finish their jobs."
    return Act(about, words, f"Reload {_of(report)}?")


def _scale(report: MachineReport, pool: PoolReport, text: str, desk: Desk) -> str | None:
    """Ask whether to set the size of a pool; return why the text is no size."""
    if not text.isdecimal() or int(text) > MOST_WORKERS:
        return f"expected a number of workers from 0 to {MOST_WORKERS:,}"
    words = ("machines", "scale", pool.name, text, report.name) if report.name else ("scale", pool.name, text)
    about = f"{_present(pool)} Busy workers end after their job."
    desk.act(Act(about, words, f"Set pool {pool.name} of {_of(report)} to {count(int(text), 'worker')}?"))
    return None


def _auto(report: MachineReport, pool: PoolReport) -> Act:
    words = ("machines", "auto", pool.name, report.name) if report.name else ("scale", pool.name, "--auto")
    return Act(_present(pool), words, f"Return pool {pool.name} of {_of(report)} to its configured size?")


def _present(pool: PoolReport) -> str:
    return f"It has {count(pool.wanted, 'worker')} now, and at most {pool.max:,} by its configuration."


class WorkersView(TableView):
    """The workers of this machine, from the scoreboard alone."""

    title = "workers"
    reads = False
    keys = (("Enter", "its job"), ("t", "stack"), ("c", "cancel its job"), ("/", "filter"))
    nothing = "no worker is running here"
    columns = (
        Column("pid"), Column("pool", 2), Column("state"), Column("jobs", 5), Column("job"), Column("for", 1),
        Column("done", 3), Column("failed", 4), Column("memory", 3), Column("id", 2),
    )  # fmt: skip

    def __init__(self, page: Page) -> None:
        super().__init__()
        self._page = page

    def _lines(self) -> list[WorkerLine]:
        return sorted(Overview(self._page.board, most=None).workers, key=lambda line: (line.pool, line.pid))

    def heading(self) -> str:
        lines = self._lines()
        running = sum(line.running_count for line in lines)
        told = f"{count(len(lines), 'worker')} of this machine, with {count(running, 'running job')}"
        return told + (f", with {self.filter!r}" if self.filter else "")

    def rows(self) -> list[Row]:
        overview = Overview(self._page.board, most=None)
        return [Row(str(line.pid), _worker(line, overview.monotonic), line) for line in self._lines()]

    def use(self, key: str, row: Row, desk: Desk) -> bool:
        line: WorkerLine = row.item
        if key == "t":
            desk.open(TextView(f"stack of worker {line.pid}", ("stack", str(line.pid)), again=False))
            return True
        if key not in ("enter", "right", "c"):
            return False
        if not line.running:
            desk.say(f"worker {line.pid} is running no job")
            return True
        entry = line.running[0]
        record = JobRecord(entry.id, entry.topic, State.RESERVED)
        if key == "c":
            act = action(key, record, entry.job)
            assert act is not None
            desk.act(act)
        else:
            desk.open(JobView(record, entry.job))
        return True


def _worker(line: WorkerLine, now: float) -> tuple[str, ...]:
    longest = line.running[0] if line.running else None
    return (
        str(line.pid), line.pool, line.state, f"{line.running_count:,}", longest.job if longest else line.reason,
        age(longest.seconds(now)) if longest else "", f"{line.done:,}", f"{line.failed:,}", size(line.memory),
        clipped(longest.id, LONGEST_ID) if longest else "",
    )  # fmt: skip
