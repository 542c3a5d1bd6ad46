"""The log, which gets the lines of all processes."""
