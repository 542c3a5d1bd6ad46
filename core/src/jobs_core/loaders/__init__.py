"""How job functions come into a process (loaders) and what surrounds them there (bootstrappers)."""
