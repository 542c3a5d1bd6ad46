"""The `jobs` command, with one file for each group of commands."""
