"""How a worker runs jobs: one after the other (sync), on threads, or as tasks of an event loop (async)."""
