"""Loaders, which import job functions, and bootstrappers, which set up their framework."""
