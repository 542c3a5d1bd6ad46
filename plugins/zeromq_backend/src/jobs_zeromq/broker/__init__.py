"""The broker: one process, one thread, one SQLite store, any number of clients.

`server.Server` is the loop over sockets; `desk.Desk` puts what has come in into one transaction and answers after its
commit; `waiting.Waiting` knows who waits for work. It keeps nothing in memory that a client would miss after a restart.
"""
