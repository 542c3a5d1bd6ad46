"""A small shop whose slow work runs in the background: what `jobsctl demo` shows."""
