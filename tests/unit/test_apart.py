"""A command's child ends with it, without output of its own."""

import pytest

from jobs_core.cli.apart import Say, apart


def test_a_child_whose_command_hears_no_more_ends_in_silence(capfd):
    def work(say: Say) -> None:
        while True:
            say("more")

    def hear(said: str) -> None:
        raise BrokenPipeError  # as if the command's output was cut off: `jobsctl check | head`

    with pytest.raises(BrokenPipeError):
        apart(work, hear)
    assert capfd.readouterr().err == ""
