"""Queue backends: the interface (base.py) and the two that need nothing installed (memory.py, sqlite.py)."""
