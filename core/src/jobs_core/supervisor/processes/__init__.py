"""Child processes: how each is made, set up and ended, and what a template or worker does inside."""
