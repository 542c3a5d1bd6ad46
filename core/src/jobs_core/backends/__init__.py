"""Backends: the interface (base.py), and the two that need no server (memory/, sqlite/)."""
