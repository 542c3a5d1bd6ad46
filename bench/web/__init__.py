"""Measure `jobsctl web` on a store with a million jobs."""
