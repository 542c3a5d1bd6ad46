"""Starts worker processes and looks after them; a concern a file."""
