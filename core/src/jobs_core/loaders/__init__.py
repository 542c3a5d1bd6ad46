"""Loaders, which bring job functions into a process, and bootstrappers, which set up their framework."""
