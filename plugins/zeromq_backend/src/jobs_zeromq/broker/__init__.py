"""The broker: one process, one thread, one SQLite store, any number of clients.

`server.Server` is the loop over sockets; `transactions.Transactions` executes the received requests in one transaction and
answers after its commit; `waiting.Waiting` records the workers that wait for jobs. Nothing in memory would be missed by a
client after a restart.
"""
