"""State that a fork copies and a child must give up: random numbers, and the duty to clean up after its parent.

The standard library handles the rest itself: `random`, `tempfile`, `secrets` and OpenSSL notice the fork. An
application's own generators (`random.Random()`, `numpy.random.default_rng()`) keep their state: it may be intended.
"""

from __future__ import annotations

import contextlib
import random
import sys
import weakref


def reset() -> None:
    """Give up inherited state; call it once in every child, before the application's code runs. Imports nothing."""
    _reseed()
    _drop_finalizers()


def _reseed() -> None:
    random.seed()
    uuid = sys.modules.get("uuid")
    if uuid is not None:
        # `uuid1` calls libuuid first, whose clock sequence survives a fork: children of a template that had called it
        # drew 5 % equal ids. The implementation in Python draws a sequence for each call, and costs 3 µs more.
        uuid._generate_time_safe = None  # type: ignore[attr-defined]  # there is no public way to choose
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        with contextlib.suppress(Exception):  # another bit generator is set, which cannot be seeded this way
            numpy_random.seed()


def _drop_finalizers() -> None:
    """Have no child clean up objects from before the fork, such as temporary directories: others still use them."""
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]  # there is no public list of them
        finalizer.atexit = False
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process is not None and util is not None:  # as multiprocessing does in its own children
        process._children.clear()
        util._finalizer_registry.clear()
        util._run_after_forkers()
