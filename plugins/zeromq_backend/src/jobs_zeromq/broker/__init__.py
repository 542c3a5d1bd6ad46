"""The broker: one process with one thread and one SQLite store, for any number of clients.

`server.Server` is the loop over sockets; `transactions.Transactions` executes the received requests in one transaction and
answers them after its commit; `waiting.Waiting` records the workers that wait for jobs. Nothing that is
only in memory is needed after a restart.
"""
