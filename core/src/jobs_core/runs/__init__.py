"""One run of a job: its state, its context for the job itself, and its outcome."""
