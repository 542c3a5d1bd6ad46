"""The loop of the courier's thread, which a job may keep from running."""

import time

from jobs_rabbitmq.transport.loop import Loop


def test_a_broker_is_not_given_up_for_time_that_a_job_took():
    loop, answers = Loop(), []

    def held_up():
        time.sleep(0.6)  # a job holds the interpreter lock
        loop.call_later(0.1, lambda: answers.append("here"))  # the broker answers the request then

    loop.call_later(0.0, held_up)
    assert loop.answered(lambda: answers, 0.5)


def test_a_broker_that_is_silent_is_given_up_in_time():
    loop, begin = Loop(), time.monotonic()
    assert not loop.answered(lambda: False, 0.3)
    assert time.monotonic() - begin >= 0.29
