"""A shop on Django and PostgreSQL: an order and the flow of its jobs are committed together, or not at all."""
