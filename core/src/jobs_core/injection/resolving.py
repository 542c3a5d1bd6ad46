"""Wrap a function with injected parameters, so that each call gets the values, and cleans them up afterwards."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import boundary
from ..errors import JobDefinitionError
from .providers import Provider, Style, overridden, overriding, provider_of

if TYPE_CHECKING:
    import asyncio

    from ..held import Held

logger = logging.getLogger("jobs.worker")


class Plan(NamedTuple):
    """The injected parameters of one function."""

    needs: dict[str, tuple[Any, Provider]]
    """By parameter: the key under which a test may override it, and its provider."""

    @classmethod
    def of(cls, wanted: dict[str, Any], name: str, *, is_async: bool, function: Callable[..., Any] | None = None) -> Plan:
        """Find the providers; raise a JobDefinitionError that names the function `name` if one is missing or unsuitable."""
        needs = {}
        for parameter, key in wanted.items():
            provider = provider_of(key, f"{name}: parameter {parameter!r}").compile()
            if provider.is_async and not is_async:
                remedy = (
                    "the job is an `async def`, but its decorator returns a plain function: make its wrapper an `async def`"
                    if function is not None and inspect.iscoroutinefunction(inspect.unwrap(function))
                    else "make the job an `async def`"
                )
                raise JobDefinitionError(
                    f"{name}: parameter {parameter!r} comes from {provider.name}, which needs an event loop: {remedy}, "
                    "or the provider a plain function"
                )
            needs[parameter] = key, provider
        return cls(needs)


def injecting(function: Callable[..., Any], wanted: dict[str, Any], name: str) -> Callable[..., Any]:
    """Return a function that injects the parameters `wanted` and takes the others; it finds the providers when first called."""
    plan: list[Plan] = []

    def planned(is_async: bool) -> Plan:
        if not plan:
            plan.append(Plan.of(wanted, name, is_async=is_async, function=function))
        return plan[0]

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def acall(*args: Any, **kwargs: Any) -> Any:
            failure: BaseException | None = None
            async with AsyncExitStack() as stack:
                try:
                    values = _Values(stack)
                    for parameter, (key, provider) in planned(True).needs.items():
                        kwargs[parameter] = await values.aget(key, provider)
                    return await function(*args, **kwargs)
                except BaseException as error:
                    failure = error
                    raise
            raise failure  # a provider has swallowed the exception, but the run must fail all the same

        return acall

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        failure: BaseException | None = None
        with ExitStack() as stack:
            try:
                values = _Values(stack)
                for parameter, (key, provider) in planned(False).needs.items():
                    kwargs[parameter] = values.get(key, provider)
                value = function(*args, **kwargs)
                # A decorator may hide an async function: keep the values until its result has been awaited.
                return _awaiting(value, stack.pop_all()) if inspect.isawaitable(value) else value
            except BaseException as error:
                failure = error
                raise
        raise failure  # a provider has swallowed the exception, as above

    return call


async def _awaiting(value: Any, stack: ExitStack) -> Any:
    failure: BaseException | None = None
    with stack:
        try:
            return await value
        except BaseException as error:
            failure = error
            raise
    raise failure


class _Values:
    """The injected values of one run, for which each provider is called once."""

    def __init__(self, stack: ExitStack | AsyncExitStack) -> None:
        self._stack: Any = stack
        self._made: dict[Provider, Any] = {}

    def get(self, key: Any, provider: Provider) -> Any:
        """Return the value of a provider that is not async."""
        replacement = overridden(key, provider)
        if replacement is not None:
            return replacement()
        if provider not in self._made:
            if provider.scope == "worker" and not overriding():
                self._made[provider] = worker_values.get(provider)
            else:
                arguments = {name: self.get(*need) for name, need in provider.needs.items()}
                self._made[provider] = _enter(provider, self._stack, arguments)
        return self._made[provider]

    async def aget(self, key: Any, provider: Provider) -> Any:
        """Return the value of any provider, async or not."""
        if not provider.is_async or overridden(key, provider) is not None:
            return self.get(key, provider)
        if provider not in self._made:
            if provider.scope == "worker" and worker_values.keeps_async() and not overriding():
                self._made[provider] = await worker_values.aget(provider)
            else:
                arguments = {name: await self.aget(*need) for name, need in provider.needs.items()}
                self._made[provider] = await _aenter(provider, self._stack, arguments)
        return self._made[provider]


def _enter(provider: Provider, stack: ExitStack | AsyncExitStack, arguments: dict[str, Any]) -> Any:
    made = provider.function(**arguments)
    if provider.style is not Style.GENERATOR:
        return made
    if not isinstance(made, AbstractContextManager):  # unless the provider is decorated with contextmanager
        made = contextlib.contextmanager(lambda: made)()
    return stack.enter_context(_Yielding(provider, made))


async def _aenter(provider: Provider, stack: AsyncExitStack, arguments: dict[str, Any]) -> Any:
    if provider.style is Style.ASYNC_GENERATOR:
        made = provider.function(**arguments)
        if not isinstance(made, AbstractAsyncContextManager):
            made = contextlib.asynccontextmanager(lambda: made)()
        return await stack.enter_async_context(_AsyncYielding(provider, made))
    if provider.style is Style.ASYNC:
        return await provider.function(**arguments)
    return _enter(provider, stack, arguments)


class _Yielding(NamedTuple):
    """The value of a generator; a generator that does not yield exactly once is named in the error."""

    provider: Provider
    manager: AbstractContextManager[Any]

    def __enter__(self) -> Any:
        try:
            return self.manager.__enter__()
        except RuntimeError as error:
            _refuse_misuse(self.provider, error)
            raise

    def __exit__(self, *error: Any) -> bool | None:
        try:
            return self.manager.__exit__(*error)
        except RuntimeError as failure:
            _refuse_misuse(self.provider, failure)
            raise


class _AsyncYielding(NamedTuple):
    """The same for an async generator."""

    provider: Provider
    manager: AbstractAsyncContextManager[Any]

    async def __aenter__(self) -> Any:
        try:
            return await self.manager.__aenter__()
        except RuntimeError as error:
            _refuse_misuse(self.provider, error)
            raise

    async def __aexit__(self, *error: Any) -> bool | None:
        try:
            return await self.manager.__aexit__(*error)
        except RuntimeError as failure:
            _refuse_misuse(self.provider, failure)
            raise


_MISUSES = {
    "generator didn't yield": "ended without a yield",
    "generator didn't stop": "yielded more than once",
    "generator didn't stop after throw()": "yielded again after an error",
    "generator didn't stop after athrow()": "yielded again after an error",
}
"""Errors of contextlib, which name no function."""


def _refuse_misuse(provider: Provider, error: RuntimeError) -> None:
    """Raise an error that names the provider, if this one says that it does not yield exactly once."""
    misuse = _MISUSES.get(str(error))
    if misuse is not None:
        raise JobDefinitionError(
            f"provider {provider.name} {misuse}: it has to yield its value exactly once, on every path"
        ) from None


class _Opening:
    """A value with scope "worker" of an async provider: created, or being created while runs wait for it."""

    def __init__(self, held: Held, value: asyncio.Future[Any]) -> None:
        self.held = held
        self.value = value
        self.waiting = 0


class WorkerValues:
    """The values of this process with the scope "worker". Any thread may use it.

    Values of async providers are kept only in async pools, where all jobs share one event loop. Elsewhere, each run gets
    its own.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stack = ExitStack()
        self._made: dict[Provider, Any] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: dict[Provider, _Opening] = {}
        self._held: list[Held] = []

    def get(self, provider: Provider) -> Any:
        """Return the value of a provider that is not async; the first call creates it."""
        with self._lock:
            if provider not in self._made:
                arguments = {name: self.get(need) for name, (_, need) in provider.needs.items()}
                self._made[provider] = _enter(provider, self._stack, arguments)
            return self._made[provider]

    def keeps_async(self) -> bool:
        """Return whether the running event loop is the one in which async values are kept."""
        import asyncio  # late, here and below: plain jobs do not need it

        return self._loop is not None and self._loop is asyncio.get_running_loop()

    async def aget(self, provider: Provider) -> Any:
        """Return the value of any provider. If creating it fails, the next run that needs it tries again."""
        import asyncio

        from ..held import Held

        if not provider.is_async:
            return self.get(provider)
        opening = self._opening.get(provider)
        if opening is None:
            held = Held(self._manager(provider), f"the value of the provider {provider.name}")
            opening = self._opening[provider] = _Opening(held, asyncio.ensure_future(held.open()))
            opening.value.add_done_callback(functools.partial(self._opened, provider))
            self._held.append(held)
        opening.waiting += 1
        try:
            return await asyncio.shield(opening.value)
        finally:
            opening.waiting -= 1
            if not opening.waiting and not opening.value.done():  # all runs that waited for it were interrupted
                self._forget(provider)
                opening.held.abandon()
                opening.value.cancel()

    def _opened(self, provider: Provider, value: asyncio.Future[Any]) -> None:
        if value.cancelled() or value.exception() is not None:
            self._forget(provider)

    def _forget(self, provider: Provider) -> None:
        opening = self._opening.pop(provider, None)
        if opening is not None:
            self._held.remove(opening.held)

    @contextlib.asynccontextmanager
    async def _manager(self, provider: Provider) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            arguments = {name: await self.aget(need) for name, (_, need) in provider.needs.items()}
            yield await _aenter(provider, stack, arguments)

    @contextlib.contextmanager
    def kept(self, loop: asyncio.AbstractEventLoop | None) -> Iterator[None]:
        """Keep the values of a worker until the end of the block; `loop` is the event loop of its async jobs, if shared."""
        self._loop = loop
        try:
            yield
        finally:
            self._loop = None
            try:
                if loop is not None and self._held:
                    loop.run_until_complete(self._close_async())
                self._stack.close()
            except BaseException as error:
                text = "a provider failed when the worker ended; all jobs had ended before"
                boundary.log(logger, logging.ERROR, text, error=error)

    async def _close_async(self) -> None:
        while self._held:
            await self._held.pop().close()

    def forget(self) -> None:
        """Start without values in a process that a job has forked, because they belong to its parent."""
        _inherited.append(self.__dict__.copy())  # kept, because the garbage collector would close them
        self.__init__()  # type: ignore[misc]  # a worker of its own


_inherited: list[Any] = []
worker_values = WorkerValues()
os.register_at_fork(after_in_child=worker_values.forget)
