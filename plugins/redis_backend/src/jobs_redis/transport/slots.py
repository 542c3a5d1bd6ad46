"""The nodes of a cluster, and the slots of each."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable, Iterator
from typing import Any

from jobs_core.backend_kit import Address
from jobs_core.errors import BackendError, BackendUnavailable

from ..errors import Moved
from ..scripts import Script
from ..url import Target
from .connection import ServerConnection, connector


class Nodes:
    """The connections to the nodes; each command runs on the node of its key. One thread at a time."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._links: dict[Address, ServerConnection] = {}
        self._slots: list[tuple[int, int, Address]] = []
        self._by_key: dict[str, Address] = {}

    @property
    def connected(self) -> bool:
        return any(connection.connected for connection in self._links.values())

    def disconnect(self) -> None:
        for connection in self._links.values():
            connection.disconnect()
        self._links.clear()
        self.forget()

    def forget(self) -> None:
        """Forget the slots of each node, so that they are requested again."""
        self._slots.clear()
        self._by_key.clear()

    # -- nodes -----------------------------------------------------------------------------------

    def connection(self, key: str) -> ServerConnection:
        """Return the connection to the node of a key."""
        return self._to(self._address(key))

    def new_connection(self, key: str) -> ServerConnection:
        """Return a separate connection to the node of a key."""
        return self._make(self._address(key))

    def masters(self) -> Iterator[ServerConnection]:
        """Yield a connection to every node that has slots."""
        self._learn()
        for address in sorted({address for _, _, address in self._slots}):
            yield self._to(address)

    def _to(self, address: Address) -> ServerConnection:
        return self._links.get(address) or self._links.setdefault(address, self._make(address))

    def _make(self, address: Address) -> ServerConnection:
        return ServerConnection(connector(self._target, address), f"{self._target.shown} (node {address[0]}:{address[1]})")

    def _address(self, key: str) -> Address:
        address = self._by_key.get(key)
        if address is None:
            self._learn()
            slot = key_slot(key.encode())
            found = [address for first, last, address in self._slots if first <= slot <= last]
            if not found:
                self.forget()
                raise BackendUnavailable(f"{self._target.shown}: no node serves slot {slot} of the cluster")
            address = self._by_key[key] = found[0]
        return address

    def _learn(self) -> None:
        """Ask for the slots of each node; the first node that answers is enough."""
        if self._slots:
            return
        failed: BackendError | None = None
        for address in [*self._links, *self._target.addresses]:
            try:
                answer = self._to(address).call("CLUSTER", "SLOTS")
            except BackendError as error:
                failed = error
                continue
            self._slots = [(first, last, _address(master, address)) for first, last, master, *_ in answer]
            return
        raise failed or BackendUnavailable(f"{self._target.shown}: no node is named")

    # -- commands --------------------------------------------------------------------------------

    def run(self, script: Script, base: str, *arguments: Any) -> Any:
        """Run a script on the store at `base`. If its slot has moved, the old node refuses, and the new node runs it."""
        return self._follow(base, lambda connection: connection.run(script, base, *arguments))

    def call(self, *command: Any) -> Any:
        """Run a command whose first argument is a key."""
        return self._follow(command[1], lambda connection: connection.call(*command))

    def _follow(self, key: str, ask: Callable[[ServerConnection], Any]) -> Any:
        try:
            try:
                return ask(self.connection(key))
            except Moved as moved:
                self.forget()
                return ask(self._to(moved.address))
        except Moved as moved:
            raise BackendUnavailable(f"{self._target.shown}: the nodes do not agree on the owner of a slot: {moved}") from None
        except BackendUnavailable:
            self.forget()  # the node may have failed over: ask for the slots again next time
            raise


def _address(master: Any, asked: Address) -> Address:
    """Return a node's address. A node that does not know its own host is at the host that was asked."""
    host = master[0].decode() if master[0] else ""
    return host or asked[0], int(master[1])


def key_slot(key: bytes) -> int:
    """Return the slot of a key: that of the part in its first braces, unless there is none, or it is empty."""
    _, opened, rest = key.partition(b"{")
    tag, closed, _ = rest.partition(b"}")
    return crc_hqx(tag if opened and closed and tag else key, 0) % 16384
