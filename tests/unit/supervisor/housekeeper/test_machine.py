"""The housekeeper's part of commands from other machines: each is obeyed once, or refused and logged."""

from __future__ import annotations

import os

import msgspec
import pytest

from jobs_core import App, Config
from jobs_core.backends.memory import forget
from jobs_core.errors import BackendUnavailable, QueueFull
from jobs_core.ids import new_token
from jobs_core.machines import COMMAND, GONE, LIFETIME, MACHINE, MachineReport, Order, PoolReport, command, is_meant, reports
from jobs_core.plugins import Plugins
from jobs_core.registry import Registry
from jobs_core.scoreboard import state
from jobs_core.scoreboard.state import PoolState, SupervisorState
from jobs_core.sealed import seal
from jobs_core.supervisor.housekeeper import machine as machines
from jobs_core.supervisor.housekeeper.machine import Machine
from jobs_core.supervisor.system.messages import CommandDone, Commanded

KEYS = ["a:0123456789012345678901234567890123"]


class Place:
    """A backend in memory, and the housekeepers of machines that use it; what these tell their supervisors is kept."""

    def __init__(self, path, keys=()):
        self.path, self.url, self.now = path, f"memory://{new_token()}", 1_800_000_000.0
        self.app = App(Config(backend=self.url, signing_keys=list(keys)), plugins=Plugins(), registry=Registry())
        self.told: list[Commanded] = []
        self.open()

    def open(self):
        self.backend = self.app.new_backend(clock=lambda: self.now)
        self.backend.open(None)

    def lose(self):
        """Let the backend forget everything, as a Redis without persistence does that restarts."""
        self.backend.close()
        forget(self.url)
        self.open()

    def machine(self, name="one", supervisor=0):
        run_dir = self.path / name
        run_dir.mkdir(exist_ok=True)
        machine = Machine(self.app, run_dir, supervisor or os.getpid(), self.told.append)
        self.look(machine)
        return machine

    def look(self, machine):
        machine.look(self.backend, self.backend.document_versions([COMMAND])[COMMAND])

    def give(self, order, target="*", app=None):
        return command(app or self.app, self.backend, order, target)

    def close(self):
        self.backend.close()
        self.app.close()
        forget(self.url)


@pytest.fixture
def place(tmp_path):
    one = Place(tmp_path)
    yield one
    one.close()


@pytest.fixture
def signed(tmp_path):
    one = Place(tmp_path, KEYS)
    yield one
    one.close()


def test_a_command_reaches_the_supervisor_once(place):
    machine = place.machine()
    name = place.give(Order("scale", "mail", 3))
    for _ in range(3):
        place.look(machine)
    assert place.told == [Commanded(name, "scale", "mail", 3)]
    place.look(place.machine())
    assert len(place.told) == 1, "another housekeeper of the same supervisor knows it"


def test_a_command_is_for_the_named_machine_or_all(place):
    one, two = place.machine("one"), place.machine("two")
    names = [place.give(Order("quiet"), target) for target in (one.name, two.name, "*", "elsewhere")]
    place.look(one)
    assert [each.id for each in place.told] == [names[0], names[2]]
    place.look(two)
    assert [each.id for each in place.told[2:]] == names[1:3]


def test_a_target_is_a_name_a_host_or_all():
    assert is_meant("web1.3f2a51", "web1.3f2a51")
    assert is_meant("web1", "web1.3f2a51")
    assert is_meant("*", "web1.3f2a51")
    assert not is_meant("web", "web1.3f2a51")
    assert not is_meant("", "web1.3f2a51")


def test_commands_from_before_the_start_of_the_supervisor_are_not_carried_out(place):
    place.give(Order("quiet"))
    machine = place.machine()
    assert place.told == []
    place.give(Order("resume"))
    place.look(machine)
    assert [each.do for each in place.told] == ["resume"]
    place.machine(supervisor=os.getppid())  # a later supervisor in the same directory
    assert len(place.told) == 1


def test_a_command_that_was_given_while_the_housekeeper_restarted_is_carried_out(place):
    place.machine()
    name = place.give(Order("quiet"))
    place.machine()
    assert [each.id for each in place.told] == [name]


@pytest.mark.parametrize("restarted", [False, True], ids=["the same housekeeper", "another housekeeper"])
def test_a_command_is_carried_out_when_the_backend_has_come_back_empty(place, restarted):
    machine = place.machine()
    for _ in range(3):
        place.give(Order("quiet"))
    place.look(machine)
    place.lose()
    name = place.give(Order("resume"))
    if restarted:
        place.machine()
    else:
        place.look(machine)
    assert [each.do for each in place.told] == ["quiet", "quiet", "quiet", "resume"]
    assert place.told[-1].id == name


def test_a_command_is_carried_out_once_when_the_backend_has_come_back_older(place, caplog):
    machine = place.machine()
    old = place.give(Order("quiet"))
    data = place.backend.document(COMMAND, old).data
    for _ in range(3):
        place.give(Order("resume"))
    place.look(machine)
    place.lose()
    place.backend.put_document(COMMAND, old, data, new_token())
    new = place.give(Order("stacks"))
    place.look(machine)
    assert [each.id for each in place.told][4:] == [new]
    assert "refused" not in caplog.text


def test_a_command_expires(place):
    machine = place.machine()
    place.give(Order("quiet"))
    place.now += LIFETIME + 1
    place.look(machine)
    assert place.told == []


@pytest.mark.parametrize("forgery", ["unsigned", "another key", "copied", "again"])
def test_with_keys_what_is_not_signed_is_refused_and_logged(signed, forgery, caplog):
    machine = signed.machine()
    name = signed.give(Order("quiet"))
    signed.look(machine)
    assert len(signed.told) == 1
    data = signed.backend.document(COMMAND, name).data
    if forgery == "unsigned":
        signed.give(Order("quiet"), app=App(Config(backend=signed.url), plugins=Plugins(), registry=Registry()))
    elif forgery == "another key":
        keys = ["a:another_0123456789_another_0123456789"]
        signed.give(Order("quiet"), app=App(Config(backend=signed.url, signing_keys=keys), plugins=Plugins()))
    else:
        copy = name if forgery == "again" else "copied"
        signed.backend.put_document(COMMAND, copy, data, new_token())
    signed.look(machine)
    assert len(signed.told) == 1
    assert "in the backend is refused" in caplog.text
    assert machine.has_news, "whoever gave it waits for the report"


def serve(place):
    it = SupervisorState(pid=7, host="web1", version="1", started_at=5.0, generation=2, state="serving")
    state.write(place.path / "one" / state.STATE, it)


def test_the_report_says_which_commands_were_refused_and_a_copy_does_not_hide_how_the_first_ended(signed):
    machine = signed.machine()
    serve(signed)
    done = signed.give(Order("quiet"))
    signed.look(machine)
    machine.done(CommandDone(done, ""))
    signed.backend.put_document(COMMAND, done, signed.backend.document(COMMAND, done).data, new_token())
    foreign = signed.give(Order("quiet"), app=App(Config(backend=signed.url), plugins=Plugins(), registry=Registry()))
    signed.look(machine)
    machine.report(signed.backend)
    (report,) = reports(signed.backend)
    assert report.commands == {
        done: "",
        foreign: "refused: the document is not signed, but signing_keys are configured",
    }


def test_only_the_newest_refused_commands_are_remembered(signed):
    machine = signed.machine()
    serve(signed)
    for number in range(machines.MOST_REPORTED + 5):
        signed.backend.put_document(COMMAND, f"forged{number}", b"{}", new_token())
    signed.look(machine)
    machine.report(signed.backend)
    (report,) = reports(signed.backend)
    assert len(report.commands) == machines.MOST_REPORTED
    assert "forged0" not in report.commands


@pytest.mark.parametrize(
    ("late", "why"),
    [
        (LIFETIME + machines.CLOCKS - 1, ""),
        (LIFETIME + machines.CLOCKS + 1, "it was made 2m1s ago by the clock here, and has expired"),
        (-machines.CLOCKS + 1, ""),
        (-machines.CLOCKS - 1, "it was made 1m1s in the future by the clock here"),
    ],
)
def test_a_signed_command_is_carried_out_only_a_minute_beside_its_time_whoever_writes_it_again(
    signed, monkeypatch, caplog, late, why
):
    machine = signed.machine()
    name = signed.give(Order("quiet"))
    data = signed.backend.document(COMMAND, name).data
    made = msgspec.json.decode(data)["issued_at"] / 1000
    signed.backend.delete_document(COMMAND, name, new_token())
    monkeypatch.setattr(machines.time, "time", lambda: made + late)
    signed.backend.put_document(COMMAND, name, data, new_token())  # it has no end of its own now
    signed.look(machine)
    assert [each.id for each in signed.told] == ([] if why else [name])
    assert why in caplog.text


def test_without_keys_the_backend_alone_says_whether_a_command_has_expired(place, monkeypatch):
    machine = place.machine()
    name = place.give(Order("quiet"))
    monkeypatch.setattr(machines.time, "time", lambda: 0.0)  # its clock has stopped in 1970
    place.look(machine)
    assert [each.id for each in place.told] == [name]


@pytest.mark.parametrize(
    "body",
    [{"do": "stop"}, {"do": "exec", "pool": "x"}, {"do": "scale", "workers": 10**9}, {"do": "scale", "workers": -1}, 5, []],
)
def test_what_is_no_command_is_refused_and_logged(place, body, caplog):
    machine = place.machine()
    place.backend.put_document(COMMAND, "x", seal(place.app.signer, COMMAND, "x", body, ttl=60.0), new_token())
    name = place.give(Order("quiet"))
    place.look(machine)
    assert [each.id for each in place.told] == [name], "those that follow are carried out"
    assert "command x in the backend is refused" in caplog.text


def test_a_machine_reports_itself_and_how_commands_ended_until_it_leaves(place):
    machine = place.machine()
    it = SupervisorState(pid=7, host="web1", version="1", started_at=5.0, generation=2, state="serving")
    it.pools = [PoolState("mail", ["mail"], "sync", 1, 1, 4, 2)]
    state.write(place.path / "one" / state.STATE, it)
    names = [place.give(Order("quiet")), place.give(Order("scale", "nope", 2))]
    place.look(machine)
    machine.report(place.backend)
    (report,) = reports(place.backend)
    assert (report.state, report.generation, report.commands) == ("serving", 2, {})
    assert report.pools == [PoolReport("mail", ["mail"], 2, 0, 4)]
    machine.done(CommandDone(names[0], ""))
    machine.done(CommandDone(names[1], "there is no such pool"))
    assert machine.has_news
    machine.report(place.backend)
    place.now += 7
    (report,) = reports(place.backend)
    assert report.commands == {names[0]: "", names[1]: "there is no such pool"}
    assert report.age == pytest.approx(7)
    assert not machine.has_news
    machine.leave(place.backend)  # a reload replaces the housekeeper
    assert len(reports(place.backend)) == 1
    it.state = "stopping"
    state.write(place.path / "one" / state.STATE, it)
    machine.leave(place.backend)
    assert reports(place.backend) == []


def test_a_silent_machine_is_gone_after_30_s(place):
    state.write(
        (place.path / "one") / state.STATE if place.machine() else place.path,
        SupervisorState(pid=7, host="web1", version="1", started_at=5.0, generation=2, state="serving"),
    )
    place.machine().report(place.backend)
    place.now += GONE - 1
    assert len(reports(place.backend)) == 1
    place.now += 1
    assert reports(place.backend) == []


def test_a_report_that_is_too_large_loses_its_details(place):
    machine = place.machine()
    it = SupervisorState(pid=7, host="web1", version="1", started_at=5.0, generation=2, state="serving")
    it.pools = [PoolState(f"pool{n}", [f"topic{n}.{m}" for m in range(20)], "sync", 1, 1, 4, 2) for n in range(190)]
    state.write(place.path / "one" / state.STATE, it)
    machine.report(place.backend)
    (report,) = reports(place.backend)
    assert len(report.pools) == 190


def test_reports_of_later_releases_that_cannot_be_read_are_left_out(place):
    place.backend.put_document(MACHINE, "later", b'{"v":9}', new_token())
    assert reports(place.backend) == []
    assert MachineReport.__struct_fields__[0] == "name"


def test_a_backend_that_refuses_the_report_keeps_the_housekeeper_from_nothing_and_is_named_once(place, monkeypatch, caplog):
    machine = place.machine()
    it = SupervisorState(pid=7, host="web1", version="1", started_at=5.0, generation=2, state="serving")
    state.write(place.path / "one" / state.STATE, it)

    def full(*_, **__):
        raise QueueFull("it is full")

    monkeypatch.setattr(place.backend, "put_document", full)
    for _ in range(3):
        machine.report(place.backend)
    assert caplog.text.count("it is full") == 1

    def down(*_, **__):
        raise BackendUnavailable("it is down")

    monkeypatch.setattr(place.backend, "put_document", down)
    with pytest.raises(BackendUnavailable):
        machine.report(place.backend)
