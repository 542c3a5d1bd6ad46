"""The `jobsctl` command, with one file for each group of commands."""
