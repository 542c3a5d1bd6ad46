"""Start worker processes and keep them running; one concern per file."""
