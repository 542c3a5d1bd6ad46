"""Alert channels: the interface, and the core's own channels. The housekeeper imports only the configured ones."""
