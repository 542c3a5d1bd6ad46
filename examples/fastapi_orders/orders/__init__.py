"""A shop on FastAPI and PostgreSQL: an order and the job that confirms it are committed together, or not at all."""
