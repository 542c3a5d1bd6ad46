"""The `jobs` command, a file a group of commands."""
