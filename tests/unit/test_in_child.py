"""A command's child ends with it, without output of its own."""

import pytest

from jobs_core.cli.in_child import Say, run_in_child


def test_a_child_whose_command_has_gone_ends_silently(capfd):
    def work(say: Say) -> None:
        while True:
            say("more")

    def hear(said: str) -> None:
        raise BrokenPipeError  # as if the command's output was cut off: `jobsctl check | head`

    with pytest.raises(BrokenPipeError):
        run_in_child(work, hear)
    assert capfd.readouterr().err == ""
