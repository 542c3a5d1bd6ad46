"""A small shop whose slow work runs in the background: the application of `jobsctl demo`."""
