"""The gain of the hand-written transports: with ours, without parts of it, and with the library's own, in turn."""
