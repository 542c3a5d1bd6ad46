"""What the operating system provides: the event loop, channels between processes, and Linux's own calls."""
