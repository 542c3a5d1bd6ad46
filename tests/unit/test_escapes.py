"""Nothing that a message carries reaches a terminal or a log line as anything but text."""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from jobs_core import escapes
from jobs_core.app import App, set_current_app
from jobs_core.backends.base import Outcome, Outgoing, Settlement
from jobs_core.cli import main, output
from jobs_core.config_sources import load
from jobs_core.ids import new_token
from jobs_core.logs import json_line
from jobs_core.message import encode, new_message

UNSAFE = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
HOSTILE = "\x1b[31m\x9b2J\x9d0;title\x9c\u202egnp.exe a\u200bb\x07\r\u2066x\u2069\U000e0041\ufeff"


def unsafe_in(text):
    return sorted({character for character in text if character in ALL and character not in "\n\t"})


ALL = frozenset(UNSAFE)


def test_every_character_that_a_terminal_may_act_on_is_written_out():
    for character in UNSAFE:
        assert escapes.one_line(f"a{character}b").isprintable()
        shown = escapes.lines(f"a{character}b")
        assert shown.isprintable() or character in "\n\t"
        written = escapes.json(json.dumps(f"a{character}b", ensure_ascii=False))
        assert character in "\n\t" or not unsafe_in(written)
        assert json.loads(written, strict=False) == f"a{character}b"


@given(st.text())
def test_other_text_stays_as_it_is_and_json_means_the_same(text):
    if not ALL.intersection(text):
        assert escapes.one_line(text) == escapes.lines(text) == text
    assert json.loads(escapes.json(json.dumps(text, ensure_ascii=False))) == text
    assert json.loads(json_line({"message": text})) == {"message": text}
    assert not unsafe_in(json_line({"message": text}))


def test_commands_print_through_the_one_echo():
    files = Path(main.__file__).parent.glob("*.py")
    assert [file.name for file in files if file.name != "output.py" and "click.echo(" in file.read_text()] == []


# -- commands --------------------------------------------------------------------------------------


@pytest.fixture
def hostile_store(tmp_path, monkeypatch):
    """A store whose jobs have hostile texts wherever a message, an exception, a job or a crash can."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs.toml").write_text('backend = "sqlite:///q.db"\n')
    app = App(load(cwd=tmp_path, environ={}).config)
    backend = app.new_backend()
    backend.open("owner\x1b]0;x\x07" + HOSTILE[2:])
    said = {"type": HOSTILE, "message": HOSTILE, "traceback": f"Traceback\n{HOSTILE}", "host": HOSTILE}
    error = msgspec.json.encode({"at": time.time(), "attempt": 1, **said})
    ids = {name: f"{name}{HOSTILE}" for name in ("ready", "later", "dead", "done", "held", "broken", "unstorable")}

    def envelope(job_id):
        headers = {HOSTILE: HOSTILE}
        return encode(new_message(f"shop.{HOSTILE}", "default", [HOSTILE], {HOSTILE: HOSTILE}, id=job_id, headers=headers))

    first = ("dead", "done", "unstorable", "held")
    backend.push([Outgoing(ids[name], "default", envelope(ids[name])) for name in first], new_token())
    taken = {delivery.id: delivery.token for delivery in backend.reserve(["default"], 4, new_token())}
    backend.settle(
        [
            Settlement(ids["dead"], taken[ids["dead"]], Outcome.DEAD, reason=f"discarded: {HOSTILE}", error=error),
            Settlement(
                ids["done"], taken[ids["done"]], Outcome.DONE, result=msgspec.json.encode({"value": HOSTILE}), result_ttl=60.0
            ),
            Settlement(
                ids["unstorable"],
                taken[ids["unstorable"]],
                Outcome.DONE,
                result=msgspec.json.encode({"unstorable": HOSTILE}),
                result_ttl=60.0,
            ),
        ],
        new_token(),
    )
    waiting = [Outgoing(ids["ready"], "default", envelope(ids["ready"])), Outgoing(ids["broken"], "default", HOSTILE.encode())]
    backend.push([*waiting, Outgoing(ids["later"], "default", envelope(ids["later"]), delay=60.0)], new_token())
    yield ids
    backend.close()
    app.close()
    set_current_app(None)


def test_no_command_prints_terminal_control_sequences(hostile_store, capfd):
    about = [[command, job_id] for command in ("show", "why", "result") for job_id in (*hostile_store.values(), HOSTILE)]
    lists = [["list", "default", "--state", state] for state in ("ready", "scheduled", "reserved", "dead")]
    tables = [["dead", "list"], ["dead", "show", hostile_store["dead"]], ["topics"], ["check"]]
    json_too = [[*words, "--json"] for words in (*about, *lists, *tables) if words[0] != "result"]
    wrong = [
        *([*words, HOSTILE] for words in ([], ["list"], ["purge"], ["pause"], ["push"], ["dead"], ["dead", "retry"], ["-c"])),
        *(["list", "t", "--state", HOSTILE], ["result", "x", "--wait", HOSTILE], ["show", f"--{HOSTILE}"]),
        *(["push", "x", "--kw", HOSTILE], ["scale", HOSTILE, "1"]),
    ]
    last = [["cancel", job_id] for job_id in (*hostile_store.values(), HOSTILE)]
    for words in (*about, *lists, *tables, *json_too, *wrong, *last):
        main.run(words, "jobsctl")
        said = "".join(capfd.readouterr())
        assert unsafe_in(said) == [], (words, said)
        assert "Traceback (most" not in said


def test_tables_for_a_terminal_are_escaped_too(capsys, monkeypatch):
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    output.table(["a", "b"], [[HOSTILE, 1], [None, f"{HOSTILE}\n"]])
    output.sheet("title", ["a"], [[HOSTILE]], HOSTILE)
    output.facts({"a": HOSTILE})
    output.block(HOSTILE, f"x\n{HOSTILE}")
    output.styled(HOSTILE)
    assert unsafe_in(capsys.readouterr().out) == []


def test_json_for_scripts_holds_the_same_values(hostile_store):
    done = CliRunner().invoke(main.cli, ["show", hostile_store["ready"], "--json"])
    assert json.loads(done.output)["message"]["args"] == [HOSTILE]
    assert json.loads(CliRunner().invoke(main.cli, ["result", hostile_store["done"]]).output) == HOSTILE


def test_a_command_in_a_message_is_one_that_can_be_copied_into_a_shell():
    assert escapes.word("01a2-b_c.d") == "01a2-b_c.d"
    assert escapes.word("x; reboot") == "'x; reboot'"
