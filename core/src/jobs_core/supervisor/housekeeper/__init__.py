"""The housekeeper's work: it releases the jobs of dead workers, maintains the backend, counts and raises alerts."""
