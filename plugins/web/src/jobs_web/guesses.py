"""Wrong tokens that programs send: those who guess are told to wait, and the log has a line a minute instead of one a guess.

Only wrong tokens come here, so a valid one works beside a guesser at the same address. This bounds what guesses write to
the log; nobody can guess 256 random bits.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import time
from collections.abc import Callable

from jobs_core.escapes import one_line
from jobs_core.units import count

from .attempts import MOST_FAILURES, WINDOW, Attempts
from .errors import TooMany

audit = logging.getLogger("jobs.web.audit")


class Guesses:
    """Counts the wrong tokens of each address, in bounded memory. Only the event loop uses it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._attempts = Attempts(clock)
        self._refused = 0  # since the last line of the log
        self._logged = -math.inf

    def failed(self, client: str) -> None:
        """Count a wrong token; raise TooMany if its address has sent too many within a minute."""
        source = network_of(client)
        if (wait := self._attempts.wait(source)) <= 0:
            self._attempts.failed(source)
            return
        self._refused += 1
        if self._clock() - self._logged >= WINDOW:
            refused = "1 request is" if self._refused == 1 else f"{count(self._refused, 'request')} are"
            audit.warning(
                "too many wrong tokens from %s, at least %d within a minute: %s refused with 429 since the last such line",
                one_line(client), MOST_FAILURES, refused,
            )  # fmt: skip
            self._logged, self._refused = self._clock(), 0
        raise TooMany(f"this token is wrong, as were {MOST_FAILURES} others from your address within a minute", wait)


def network_of(client: str) -> str:
    """Return what counts as one client: an address; of IPv6 its first 64 bits, because a machine may choose the others."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:  # a unix socket
        return client
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else client
