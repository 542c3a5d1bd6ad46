"""Child processes: how each is started, set up and ended, and the code of templates and workers."""
