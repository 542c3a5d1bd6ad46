"""Start worker processes and keep them running; a concern a file."""
