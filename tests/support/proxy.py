"""A TCP proxy between a client and its server that causes faults on demand.

    with Proxy(server_port) as proxy:
        connect(proxy.port)
        proxy.cut()                       # reset every connection; new ones work
        proxy.refuse(); proxy.accept()    # no new connections; they work again
        proxy.delay(0.1, jitter=0.05)     # each way; 0 ends it
        proxy.drop_reply(b"EVALSHA")      # the server executes it, its reply is lost, the connection is cut
        proxy.black_hole(); proxy.heal()  # bytes disappear, and neither end is told

It knows no protocol, so it works for Redis, AMQP and ZeroMQ alike. It runs an event loop on one thread; every method
may be called from any thread, and returns when it has taken effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
CHUNK = 1 << 16
PATIENCE = 60.0
"""Longest time that one of the methods takes on a busy machine, seconds."""


class Proxy:
    """A TCP proxy; see the module."""

    def __init__(self, port: int, host: str = "127.0.0.1", *, listen: int = 0) -> None:
        self.target = host, port
        self.port = listen  # 0: any free one, known once it has started
        self.connections = 0  # connections made through it so far
        self.dropped = threading.Event()  # a reply was dropped
        self._latency = self._jitter = 0.0
        self._drop: bytes | None = None
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself holds tasks weakly
        self._hole = False
        self._listener: socket.socket | None = None
        self._refuses = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._do(self._settle())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- trouble ---------------------------------------------------------------------------------

    def cut(self) -> int:
        """Reset every connection; return how many there were."""
        return self._do(self._cut())

    def refuse(self) -> None:
        """Reset every connection, and refuse new ones."""
        self._do(self._refuse())

    def accept(self) -> None:
        """Accept connections again, at the same port."""
        self._do(self._accept())

    def delay(self, seconds: float, jitter: float = 0.0) -> None:
        """Delay all bytes by up to `jitter` more or less than `seconds`, in each direction."""
        self._latency, self._jitter = seconds, jitter

    def drop_reply(self, request: bytes = b"") -> None:
        """Forward the next request that contains these bytes, and cut its connection once the server has answered."""
        self.dropped.clear()
        self._drop = request

    def black_hole(self) -> None:
        """Swallow everything in both directions; connections stay open, and new ones are accepted and ignored."""
        self._hole = True

    def heal(self) -> None:
        """End the black hole; the connections that lost bytes in it are reset."""
        self._hole = False
        self.cut()

    # -- in the loop -----------------------------------------------------------------------------

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    async def _accept(self) -> None:
        if self._listener is None:
            self._refuses = False
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=100)
            self._listener.setblocking(False)
            self.port = self._listener.getsockname()[1]
            self._loop.add_reader(self._listener, self._take, self._listener)

    def _take(self, listener: socket.socket) -> None:
        """Accept a connection. asyncio.Server does not: one accepted at the moment of its close is never closed."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            client, _ = listener.accept()
            task = self._loop.create_task(self._serve(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _refuse(self) -> None:
        self._refuses = True
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.remove_reader(listener)
            listener.close()
        await self._cut()

    async def _cut(self) -> int:
        pairs = list(self._pairs)
        for pair in pairs:
            pair.reset()
        return len(pairs)

    async def _settle(self) -> None:
        """Wait for the tasks of connections that were cut, and of the last ones that were accepted."""
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(tasks)
        await asyncio.sleep(0)  # aborted connections are closed in the loop's next turn

    async def _serve(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client)
        if self._refuses:  # accepted in the moment before: nothing else would end it
            writer.transport.abort()
            return
        self.connections += 1
        pair = _Pair(writer)
        self._pairs.add(pair)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                server_reader, pair.upstream = await asyncio.open_connection(*self.target)
                up = self._pump(reader, pair.upstream, pair, self._request)
                down = self._pump(server_reader, writer, pair, self._reply)
                await asyncio.gather(up, down)
        finally:
            self._pairs.discard(pair)
            pair.reset()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pair: _Pair,
        look: Callable[[_Pair, bytes], bool],
    ) -> None:
        """Carry bytes one way until one end closes; end the other way with it."""
        try:
            while data := await reader.read(CHUNK):
                if self._latency or self._jitter:
                    await asyncio.sleep(max(0.0, self._latency + random.uniform(-self._jitter, self._jitter)))
                if self._hole:
                    continue
                if not look(pair, data):
                    return
                writer.write(data)
                await writer.drain()
        finally:
            pair.reset()

    def _request(self, pair: _Pair, data: bytes) -> bool:
        if self._drop is not None and self._drop in data:
            self._drop, pair.doomed = None, True
        return True

    def _reply(self, pair: _Pair, data: bytes) -> bool:
        if pair.doomed:
            self.dropped.set()
        return not pair.doomed


class _Pair:
    """One client's connection and ours to the server."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.upstream: asyncio.StreamWriter | None = None
        self.doomed = False  # its next reply is dropped

    def reset(self) -> None:
        """Close both sides with a reset, not a graceful end."""
        for writer in (self.client, self.upstream):
            if writer is None or writer.transport.is_closing():
                continue
            end = writer.get_extra_info("socket")
            if end is not None:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
