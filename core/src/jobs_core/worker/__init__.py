"""One worker process: a courier thread that talks to the backend, and executors that run jobs."""
