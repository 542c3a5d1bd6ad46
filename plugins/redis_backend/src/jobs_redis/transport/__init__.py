"""The connections to Redis beside redis-py's own: to one server, to the master that sentinels name, to a cluster's nodes."""
