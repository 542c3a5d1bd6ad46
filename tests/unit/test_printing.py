"""The prints of a run go into the log; those of others at the same time do not."""

import asyncio
import contextlib
import io
import logging
import sys
import threading

import pytest

from jobs_core.loaders.base import log_printed
from jobs_core.loaders.printing import LONGEST_LINE

logger = logging.getLogger("printing")


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO)
    return lambda: [(record.levelname, record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        (["a\n"], ["a"]),
        (["a\nb\n\nc"], ["a", "b", "c"]),
        (["a", "b\n", "c"], ["ab", "c"]),
        ([" 1%\r", "50%\r", "99%\n"], ["99%"]),
        (["  indented  \n"], ["  indented"]),
        (["x" * (LONGEST_LINE + 1), "y\n"], ["x" * (LONGEST_LINE + 1), "y"]),
        (["%s %d\n"], ["%s %d"]),
        ([""], []),
    ],
)
def test_text_is_logged_line_by_line(logged, written, lines):
    with log_printed(logger):
        for text in written:
            sys.stdout.write(text)
    assert logged() == [("INFO", line) for line in lines]


def test_standard_error_is_logged_as_a_warning_and_the_end_of_a_failing_block_too(logged, capsys):
    with contextlib.suppress(LookupError), log_printed(logger):
        print("half a line", end="", file=sys.stderr)
        sys.stdout.writelines(["one\n", "two\n"])
        raise LookupError
    assert logged() == [("INFO", "one"), ("INFO", "two"), ("WARNING", "half a line")]
    assert capsys.readouterr() == ("", "")


def test_other_threads_print_as_before(logged, capsys):
    inside, printed = threading.Event(), threading.Event()

    def other():
        inside.wait()
        print("by another")
        printed.set()

    thread = threading.Thread(target=other)
    thread.start()
    with log_printed(logger):
        inside.set()
        printed.wait()
        print("by this one")
    thread.join()
    assert logged() == [("INFO", "by this one")]
    assert capsys.readouterr().out == "by another\n"


def test_tasks_of_one_loop_are_distinguished(logged, capsys):
    async def run(name, *, log):
        with log_printed(logging.getLogger(name)) if log else contextlib.nullcontext():
            for _ in range(3):
                print(name, end="")
                await asyncio.sleep(0)
            await asyncio.to_thread(print, "!")

    async def main():
        await asyncio.gather(run("a", log=True), run("b", log=True), run("c", log=False))

    asyncio.run(main())
    assert sorted(logged()) == [("INFO", "aaa!"), ("INFO", "bbb!")]
    assert capsys.readouterr().out == "ccc!\n"


def test_a_handler_that_writes_to_the_same_stream_does_not_log_its_own_output(capsys):
    with log_printed(logger):
        handler = logging.StreamHandler()  # made inside: its stream is the replaced one
        logger.addHandler(handler)
        try:
            print("once", file=sys.stderr)
        finally:
            logger.removeHandler(handler)
    assert capsys.readouterr().err == "once\n"


def test_the_stream_is_itself_in_every_other_way(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stream)
    with log_printed(logger):
        assert not sys.stdout.isatty()
    assert (sys.stdout.encoding, sys.stdout.buffer) == ("latin-1", stream.buffer)
    print("ä", flush=True)
    assert stream.buffer.getvalue() == "ä\n".encode("latin-1")
    with pytest.raises(TypeError):
        sys.stdout.write(b"bytes")
