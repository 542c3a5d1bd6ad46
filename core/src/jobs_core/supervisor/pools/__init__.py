"""The pools, and what is decided about their workers: how many, which are replaced, which are killed."""
