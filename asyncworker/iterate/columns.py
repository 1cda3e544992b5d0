"""One iterable of a source: what it is, how it is read, and how it travels."""

from __future__ import annotations

import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Set,
    Sized,
)
from typing import Any

import msgspec

from asyncworker.errors import SourceError
from asyncworker.iterate.offload import OffloadedValues

__all__ = ["Column", "OpenTask", "Pairs", "TaskSource", "column_of", "previous_result", "read_async"]

OpenTask = Callable[[str, list[Any], dict[str, Any]], AsyncIterable[Any] | Iterable[Any] | Awaitable[Any]]
"""Starts a task by name, with its arguments: what it yields, or the awaitable of what it returns."""


class TaskSource(msgspec.Struct, frozen=True):
    """A task that yields or returns the items; it is run where the items are."""

    task: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}


class PreviousResult:
    """Stands for the result of the task before, in a chain; use `previous_result`."""

    def __repr__(self) -> str:
        return "previous_result"


previous_result = PreviousResult()
"""In a chain: iterate over what the task before returns."""


class Pairs(list[tuple[Any, Any]]):
    """The items of a dict that has travelled: its keys need not be hashable any more."""


class Column:
    """A name and what it goes through.

    Attributes:
        name: The keyword.
        values: The iterable, or a `TaskSource`.
        size: How many values, where that is known.
        one_shot: It can be read only once.
        is_async: Reading it takes awaiting.
        label: Names it in errors and logs.
    """

    def __init__(self, name: str, values: Any, open_task: OpenTask | None = None) -> None:
        self.name = name
        self.values = values
        self.open_task = open_task
        self.size = _size_of(values)
        self.one_shot = isinstance(values, Iterator | AsyncIterable)
        self.is_async = isinstance(values, AsyncIterable | TaskSource | PreviousResult)
        self.label = f"{name} ({_described(values)})"

    def open(self) -> Iterator[Any]:
        """Begin to read a sync column."""
        return iter(self.values.items() if isinstance(self.values, Mapping) else self.values)

    def identity(self) -> Any:
        """Return the identity of the column: its wire form, if no one-shot iterator has to be read for it."""
        if isinstance(self.values, OffloadedValues):
            return [self.name, self.values.identity()]
        if self.one_shot:
            return [self.name, _described(self.values)]
        return self.to_wire()

    def to_wire(self) -> dict[str, Any]:
        """JSON-ready data. Reads a one-shot iterator to its end, and keeps what it gave.

        Raises:
            SourceError: An async iterator.
        """
        values = self.values
        if isinstance(values, TaskSource):
            task = {"task": values.task, "args": list(values.args), "kwargs": values.kwargs}
            return {"name": self.name, "task": task}
        if isinstance(values, PreviousResult):
            return {"name": self.name, "previous": True}
        if isinstance(values, AsyncIterable):
            raise SourceError(
                f"{self.label} cannot travel to a worker: make it a task that is an async generator, "
                "or run the fan-out here with .run()"
            )
        if isinstance(values, OffloadedValues):
            return {"name": self.name, "offloaded": values.wire}
        if isinstance(values, range):
            return {"name": self.name, "range": [values.start, values.stop, values.step]}
        if isinstance(values, Mapping | Pairs):
            return {"name": self.name, "pairs": [[key, value] for key, value in self.open()]}
        if not isinstance(values, list):
            values = list(values)
            if self.one_shot:
                self.values, self.size, self.one_shot = values, len(values), False
        return {"name": self.name, "values": values}


def column_of(name: str, values: Any, open_task: OpenTask | None = None) -> Column:
    """Make a column of what a caller gave.

    Raises:
        SourceError: It cannot be gone through, or not in an order that another process would see as well.
    """
    if isinstance(values, str | bytes | bytearray | memoryview):
        raise SourceError(f"{name} is {values!r:.100}, one value of type {type(values).__name__}: give a list of them")
    if isinstance(values, Set) and not isinstance(values, Sequence) and not isinstance(values, _VIEWS):
        raise SourceError(f"{name} is a {type(values).__name__}, which has no order to resume by: give sorted({name})")
    if inspect.iscoroutine(values):
        values.close()
        raise SourceError(f"{name} is a coroutine: await it first, or give the async generator itself")
    if inspect.iscoroutinefunction(values):
        raise SourceError(f"{name} is the coroutine function {values.__qualname__}: await it, and give what it returns")
    if inspect.isgeneratorfunction(values) or inspect.isasyncgenfunction(values):
        raise SourceError(f"{name} is the function {values.__qualname__}: call it")
    if not isinstance(values, Iterable | AsyncIterable | TaskSource | PreviousResult):
        raise SourceError(
            f"{name} is {values!r:.100} of type {type(values).__name__}: expected a list, range, dict, iterator, "
            "generator, async generator or a task that yields"
        )
    return Column(name, values, open_task)


_EMPTY: dict[Any, Any] = {}
#: Sets by their interface, but in the order of their dict.
_VIEWS = (type(_EMPTY.keys()), type(_EMPTY.items()))


async def read_async(column: Column) -> AsyncGenerator[Any, None]:
    """Read any column by awaiting; runs the task of a task column."""
    values: Any = column.values
    if isinstance(values, PreviousResult):
        raise SourceError(f"{column.name} iterates over the previous result, and there is none: use it in a chain")
    if isinstance(values, TaskSource):
        if column.open_task is None:
            raise SourceError(f"{column.label}: the task can be run only where tasks are known")
        values = column.open_task(values.task, list(values.args), dict(values.kwargs))
        if isinstance(values, Awaitable):
            values = await values
        # What a task gives is held to the same rules as what a caller gives.
        column = column_of(column.name, values)
        values = column.values
    if not isinstance(values, AsyncIterable):
        for value in column.open():
            yield value
        return
    iterator = aiter(values)
    try:
        async for value in iterator:
            yield value
    finally:
        # A generator that is left half read would be closed by the collector, some time, on some loop.
        if isinstance(iterator, AsyncGenerator):
            await iterator.aclose()


def _size_of(values: Any) -> int | None:
    if isinstance(values, range):  # `len` ends at the size of an address
        return max(0, -((values.start - values.stop) // values.step)) if values.step > 0 else _size_of(values[::-1])
    return len(values) if isinstance(values, Sized) else None


def _described(values: Any) -> str:
    if isinstance(values, TaskSource):
        return f"task {values.task}"
    name = getattr(values, "__qualname__", None)
    if name is not None:
        return f"{type(values).__name__} {name}"
    if isinstance(values, range):
        return repr(values)
    if isinstance(values, Sized):
        return f"{type(values).__name__} of {len(values)}"
    return type(values).__name__
