"""The pools, and the decisions about their workers: their number, their replacement, and when they are killed."""
