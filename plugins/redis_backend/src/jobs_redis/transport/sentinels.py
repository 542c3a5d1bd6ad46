"""Ask the sentinels for the master, before each new connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jobs_core.backend_kit import Address
from jobs_core.errors import BackendError, BackendUnavailable

from ..errors import code, translated
from . import Connection
from .failures import Failure


class Sentinels:
    """The sentinels of a service; `connection` connects to one of them. One thread at a time."""

    def __init__(self, addresses: Sequence[Address], service: str, where: str, connection: Callable[[Address], Connection]):
        self._addresses = list(addresses)
        self._service, self._where, self._connection = service, where, connection

    def master(self) -> Address:
        """Return the master's address from the first sentinel that knows it; if none does, raise an error with all answers."""
        failures: list[BackendError] = []
        for address in list(self._addresses):
            try:
                found = self._ask(address)
            except BackendError as error:
                failures.append(error)
                continue
            self._addresses.remove(address)
            self._addresses.insert(0, address)  # the one that answered is asked first next time
            return found
        said = "; ".join(str(error) for error in failures)
        passing = any(isinstance(error, BackendUnavailable) for error in failures)
        raise (BackendUnavailable if passing else BackendError)(f"{self._where}: no sentinel names the master: {said}")

    def _ask(self, address: Address) -> Address:
        where = f"{address[0]}:{address[1]}"
        try:
            connection = self._connection(address)
        except OSError as error:
            raise translated(error, where) from None
        try:
            connection.connect()
            found = connection.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        except (Failure, OSError) as error:
            if code(error) in ("NOAUTH", "WRONGPASS") and "without any password" not in str(error):
                fix = "?sentinel_username=…&sentinel_password=…"
                raise BackendError(f"{where} requires a password of its own, or a different one: {fix}") from None
            raise translated(error, where) from None
        finally:
            connection.disconnect()
        if not found:
            raise BackendUnavailable(f"{where} watches no service {self._service!r}: is its name right?")
        return found[0].decode(), int(found[1])
