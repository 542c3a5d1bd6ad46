"""Chains and groups: flows of common forms, in one expression."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, overload

from .. import foreign
from ..backends.flows import After, When
from ..errors import FlowError
from ..job_function import Call, JobFunction, Step, no_pipe
from ..placeholders import Source
from ..units import shown
from .members import Tail

if TYPE_CHECKING:
    from .adding import Adder
    from .handle import WorkHandle

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
G = TypeVar("G")
H = TypeVar("H")

NOTHING: Final = object()
"""Stands for the result of what precedes, where nothing does."""


class Work(Generic[T_co]):
    """Jobs whose last results form a value of type T: a Chain or a Group."""

    def enqueue(self, name: str = "", *, transaction: object = None) -> WorkHandle[T_co]:
        """Send the jobs as a flow of this name; they are stored durably when this returns, or with the `transaction`.

        Raises what `Flow` raises.
        """
        from .flow import Flow  # late: it imports this module

        with Flow(name or self._kind, transaction=transaction) as flow:
            tail = add_work(flow, self, [], NOTHING)
        return flow.handle_of(tail)

    async def aenqueue(self, name: str = "", *, transaction: object = None) -> WorkHandle[T_co]:
        """Send the jobs without blocking the event loop; see `enqueue`."""
        from .flow import Flow

        async with Flow(name or self._kind, transaction=transaction) as flow:
            tail = add_work(flow, self, [], NOTHING)
        return flow.handle_of(tail)

    _kind = "chain"

    if not TYPE_CHECKING:  # a type checker refuses this by itself

        def __or__(self, other):
            raise no_pipe(self, other)

        def __call__(self, *args, **kwargs):
            raise FlowError(f"a {self._kind} cannot be called: write {self._kind}(...).enqueue()")

    def __iter__(self) -> Any:
        raise FlowError(f"a {self._kind} cannot be iterated over: pass it to chain, group or flow.add, or enqueue() it")


class Chain(Work[T_co]):
    """Jobs that run one after another: see `chain`. Immutable."""

    def __init__(self, links: Sequence[Any]) -> None:
        self.links: Final = tuple(links)

    def __repr__(self) -> str:
        return f"<Chain of {len(self.links)}>"


class Group(Work["list[T_co]"], Generic[T_co]):
    """Jobs that may run at the same time: see `group`. Immutable."""

    _kind = "group"

    def __init__(self, items: Sequence[Any]) -> None:
        self.items: Final = tuple(items)

    def then(self, callback: Call[U] | Step[list[T_co], U]) -> Chain[U]:
        """Return a chain that runs `callback` once all jobs of the group are done.

        `job.step(...)` gets the list of their results, in the order of the group, as its first argument; `job.call(...)`
        gets nothing.
        """
        return Chain((self, _checked("group(...).then", callback, Call, Step, Chain)))

    def __repr__(self) -> str:
        return f"<Group of {len(self.items)}>"


foreign.teach(Work, foreign.WORK)


def group(calls: Iterable[Call[T] | Work[T] | Step[Any, T]], *more: Call[T] | Work[T] | Step[Any, T]) -> Group[T]:
    """Return a group of calls, which may run at the same time; each may also be a chain.

    Within a chain, the calls may be steps (`job.step(...)`), or chains that begin with one: each gets the result of what
    precedes the group.
    """
    first: Any = calls
    if isinstance(first, (Call, Step, Chain, Group)):
        given: list[Any] = [first, *more]
    elif not isinstance(first, Iterable) or isinstance(first, (str, bytes, dict)):
        raise _no_work("group", first)
    else:
        given = [*first, *more]
    return Group([_checked("group", each, Call, Step, Chain, Group) for each in given])


@overload
def chain(first: Call[A] | Work[A], /) -> Chain[A]: ...


@overload
def chain(first: Call[A] | Work[A], b: Step[A, B] | Call[B] | Work[B], /) -> Chain[B]: ...


@overload
def chain(first: Call[A] | Work[A], b: Step[A, B] | Call[B] | Work[B], c: Step[B, C] | Call[C] | Work[C], /) -> Chain[C]: ...


@overload
def chain(
    first: Call[A] | Work[A],
    b: Step[A, B] | Call[B] | Work[B],
    c: Step[B, C] | Call[C] | Work[C],
    d: Step[C, D] | Call[D] | Work[D],
    /,
) -> Chain[D]: ...


@overload
def chain(
    first: Call[A] | Work[A],
    b: Step[A, B] | Call[B] | Work[B],
    c: Step[B, C] | Call[C] | Work[C],
    d: Step[C, D] | Call[D] | Work[D],
    e: Step[D, E] | Call[E] | Work[E],
    /,
) -> Chain[E]: ...


@overload
def chain(
    first: Call[A] | Work[A],
    b: Step[A, B] | Call[B] | Work[B],
    c: Step[B, C] | Call[C] | Work[C],
    d: Step[C, D] | Call[D] | Work[D],
    e: Step[D, E] | Call[E] | Work[E],
    f: Step[E, F] | Call[F] | Work[F],
    /,
) -> Chain[F]: ...


@overload
def chain(
    first: Call[A] | Work[A],
    b: Step[A, B] | Call[B] | Work[B],
    c: Step[B, C] | Call[C] | Work[C],
    d: Step[C, D] | Call[D] | Work[D],
    e: Step[D, E] | Call[E] | Work[E],
    f: Step[E, F] | Call[F] | Work[F],
    g: Step[F, G] | Call[G] | Work[G],
    /,
) -> Chain[G]: ...


@overload
def chain(
    first: Call[A] | Work[A],
    b: Step[A, B] | Call[B] | Work[B],
    c: Step[B, C] | Call[C] | Work[C],
    d: Step[C, D] | Call[D] | Work[D],
    e: Step[D, E] | Call[E] | Work[E],
    f: Step[E, F] | Call[F] | Work[F],
    g: Step[F, G] | Call[G] | Work[G],
    h: Step[G, H] | Call[H] | Work[H],
    /,
) -> Chain[H]: ...


@overload
def chain(
    first: Call[Any] | Work[Any],
    b: Step[Any, Any] | Call[Any] | Work[Any],
    c: Step[Any, Any] | Call[Any] | Work[Any],
    d: Step[Any, Any] | Call[Any] | Work[Any],
    e: Step[Any, Any] | Call[Any] | Work[Any],
    f: Step[Any, Any] | Call[Any] | Work[Any],
    g: Step[Any, Any] | Call[Any] | Work[Any],
    h: Step[Any, Any] | Call[Any] | Work[Any],
    i: Step[Any, Any] | Call[Any] | Work[Any],
    /,
    *more: Step[Any, Any] | Call[Any] | Work[Any],
) -> Chain[Any]: ...


@overload
def chain(first: Step[A, B], b: Step[B, C] | Call[C] | Work[C], /) -> Step[A, C]: ...


@overload
def chain(first: Step[A, B], b: Step[B, C] | Call[C] | Work[C], c: Step[C, D] | Call[D] | Work[D], /) -> Step[A, D]: ...


@overload
def chain(
    first: Step[A, B],
    b: Step[B, C] | Call[C] | Work[C],
    c: Step[C, D] | Call[D] | Work[D],
    d: Step[D, E] | Call[E] | Work[E],
    /,
) -> Step[A, E]: ...


@overload
def chain(
    first: Step[A, Any],
    b: Step[Any, Any] | Call[Any] | Work[Any],
    c: Step[Any, Any] | Call[Any] | Work[Any],
    d: Step[Any, Any] | Call[Any] | Work[Any],
    e: Step[Any, Any] | Call[Any] | Work[Any],
    /,
    *more: Step[Any, Any] | Call[Any] | Work[Any],
) -> Step[A, Any]: ...


def chain(first: Any, /, *more: Any) -> Any:
    """Return a chain: each job runs when the one before it is done.

    The first is `job.call(...)` with all arguments. `job.step(...)` has all arguments but the first, which is the result of
    the job before; `job.call(...)` gets nothing. A link may also be a group: what follows waits for all of it, and gets
    the list of its results. The types of up to 8 links are checked.

    A chain that begins with `job.step(...)` can only stand in another chain, or in a group within one: it takes the result of
    what precedes it there. So type checkers see it as a step.
    """
    return Chain([_checked("chain", each, Call, Step, Chain, Group) for each in (first, *more)])


def _checked(where: str, work: Any, *kinds: type) -> Any:
    if not isinstance(work, kinds):
        raise _no_work(where, work)
    return work


def _no_work(where: str, given: object) -> FlowError:
    if isinstance(given, JobFunction):
        name = given.name.rpartition(".")[2]
        return FlowError(f"{where}: got the job {given.name} itself: write {name}.call(...) or {name}.step(...)")
    return FlowError(f"{where}: expected job.call(...), job.step(...), a chain or a group, got {shown(given)}")


def _first_step(step: Step[Any, Any]) -> FlowError:
    name = step.job.name.rpartition(".")[2]
    return FlowError(f"{step.job.name}: nothing precedes this step, so it has no first argument: write {name}.call(...)")


def add_work(
    adder: Adder,
    work: Any,
    after: list[After],
    value: Any,
    *,
    when: When = "done",
    stage: str | None = None,
    results: Sequence[Source] = (),
) -> Tail[Any]:
    """Add work to a flow, after these targets; a step takes `value`, the result of what precedes. Return its end."""
    if isinstance(work, Chain):
        tail: Tail[Any] = Tail([], False, after, adder.id, [])
        added = 0
        for n, link in enumerate(work.links):
            # A group that something in the chain waits for has a stage of its own: the whole stage may contain the waiting one.
            label = None if isinstance(link, Group) and n < len(work.links) - 1 else stage
            if n == 0:
                tail = add_work(adder, link, after, value, when=when, stage=label, results=results)
            else:
                tail = add_work(adder, link, tail.targets, _LazyResult(tail), stage=label)
            added += tail.added
        tail.added = added
        return tail
    if isinstance(work, Group):
        return _add_group(adder, work, after, value, when, stage, results)
    if isinstance(work, Step):
        if value is NOTHING:
            raise _first_step(work)
        given = value.get() if isinstance(value, _LazyResult) else value
        call: Call[Any] = Call(work.job, (given, *work.args), work.kwargs)
    else:
        call = work
    member = adder.add_call(call, after, when=when, stage=stage, results=results)
    return Tail([member], False, [After(member.id)], adder.id, [], 1)


class _LazyResult:
    """The result of a tail, asked for by steps alone: a job whose result nobody takes need not store it."""

    def __init__(self, tail: Tail[Any]) -> None:
        self._tail = tail

    def get(self) -> Any:
        return self._tail.result


def _add_group(
    adder: Adder, work: Group[Any], after: list[After], value: Any, when: When, stage: str | None, results: Sequence[Source]
) -> Tail[Any]:
    """Add the items of a group under one stage, whose end is that of the group; without a stage, it is that of each item."""
    label = stage or adder.group_stage(len(work.items))
    parts = [add_work(adder, each, after, value, when=when, stage=label, results=results) for each in work.items]
    added = sum(part.added for part in parts)
    if not added:
        targets = after
    elif label is not None:
        targets = [After(label, "stage")]
    else:
        targets = list({(each.kind, each.target): each for part in parts for each in part.targets}.values())
    return Tail([end for part in parts for end in part.ends], True, targets, adder.id, parts, added)
