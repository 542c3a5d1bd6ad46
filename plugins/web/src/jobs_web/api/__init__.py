"""The HTTP API, `/api/v1`: what a program in any language enqueues, asks and does. `operations` is the table of its calls."""
