"""The log, which receives the lines of all processes."""
