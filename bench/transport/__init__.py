"""What the hand-written transports buy: with ours, without parts of it, and with the library's own, in turn."""
