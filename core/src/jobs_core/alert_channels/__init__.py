"""Alert channels: their interface, and those of the core. Imported by the housekeeper, and only those that are configured."""
