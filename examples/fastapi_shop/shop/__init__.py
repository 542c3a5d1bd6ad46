"""A shop on FastAPI: orders are taken by an endpoint and confirmed by a job."""
