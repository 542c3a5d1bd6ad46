"""Services of the operating system: the event loop, channels between processes, and Linux's own calls."""
