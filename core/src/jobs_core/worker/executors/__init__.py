"""The executors, which run a worker's jobs: one after the other (sync), on threads, or in an event loop (async)."""
