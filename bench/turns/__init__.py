"""Two checkouts in turn: what a change costs or gains."""
