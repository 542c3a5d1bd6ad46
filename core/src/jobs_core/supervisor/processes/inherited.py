"""What a fork copies and a child must not keep: random numbers, and the duty to tidy up after its parent.

The standard library looks after the rest itself: `random`, `tempfile`, `secrets` and OpenSSL notice the fork.
An application's own generators (`random.Random()`, `numpy.random.default_rng()`) nobody can tell from wanted ones.
"""

from __future__ import annotations

import contextlib
import random
import sys
import weakref


def disown() -> None:
    """Call once in every child, before anything of the application runs in it. Touches only what is imported already."""
    _reseed()
    _leave_to_the_parent()


def _reseed() -> None:
    random.seed()
    uuid = sys.modules.get("uuid")
    if uuid is not None:
        # `uuid1` asks libuuid first, whose clock sequence survives a fork: children made of a template that had called
        # it drew 5 % equal ids. Its own way in Python draws a sequence for each call, and costs 3 µs more.
        uuid._generate_time_safe = None  # type: ignore[attr-defined]  # there is no public way to choose
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        with contextlib.suppress(Exception):  # another bit generator was set, which cannot be seeded this way
            numpy_random.seed()


def _leave_to_the_parent() -> None:
    """Objects made before the fork, temporary directories say, are cleaned up by no child: others use them still."""
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]  # there is no public list of them
        finalizer.atexit = False
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process is not None and util is not None:  # what multiprocessing does in its own children
        process._children.clear()
        util._finalizer_registry.clear()
        util._run_after_forkers()
