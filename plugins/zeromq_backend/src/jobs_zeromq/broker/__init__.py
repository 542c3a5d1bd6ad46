"""The broker: one process, one thread, one SQLite store, any number of clients.

`server.Server` is the loop over sockets; `transactions.Transactions` executes the received requests in one transaction and
answers after its commit; `waiting.Waiting` records the workers that wait for jobs. After a restart, no
client misses anything that was only in memory.
"""
