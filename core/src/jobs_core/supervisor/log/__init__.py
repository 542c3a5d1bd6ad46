"""The log: where the lines of all processes are written."""
