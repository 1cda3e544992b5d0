"""Where a resource lives: in the process, or in the task or the item that runs here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from contextvars import ContextVar
from typing import Any, Literal, TypeVar, cast

from asyncworker.errors import ResourceError
from asyncworker.resources.lifetimes import Lifetimes, lifetimes

__all__ = [
    "WIDTH",
    "Scope",
    "ScopeName",
    "declared",
    "hide_narrower",
    "in_item_scope",
    "in_task_scope",
    "items_are_scopes",
    "lifetimes_of",
    "scope_is_open",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

ScopeName = Literal["process", "task", "item"]

#: A resource may use others of its own scope and of wider ones.
WIDTH: dict[ScopeName, int] = {"process": 2, "task": 1, "item": 0}


#: The scopes that a resource of this process has. Where no item can have one, items need not be told apart.
declared: set[ScopeName] = set()


class Scope:
    """One task or one item, from here on in the running context. It costs nothing until something is made in it."""

    __slots__ = ("_name", "_outer", "ended", "lifetimes")

    def __init__(self, name: ScopeName) -> None:
        variable = _scopes[name]
        self._name = name
        self._outer = variable.get()
        self.lifetimes: Lifetimes | None = None
        self.ended = False
        variable.set(self)

    def end(self, failure: BaseException | None = None) -> Coroutine[Any, Any, bool] | None:
        """Leave it, by a failure or without one.

        Returns:
            What is to be awaited, if anything was made in it. It raises what takes the failure's place, and returns
            whether the failure was suppressed.
        """
        _scopes[self._name].set(self._outer)
        self.ended = True
        return _leave(self.lifetimes, failure) if self.lifetimes is not None else None


_scopes: dict[ScopeName, ContextVar[Scope | None]] = {
    "task": ContextVar("asyncworker_task_scope", default=None),
    "item": ContextVar("asyncworker_item_scope", default=None),
}

#: Closings whose task was cancelled meanwhile; the loop itself holds tasks weakly.
_closing: set[asyncio.Task[bool]] = set()


def lifetimes_of(scope: ScopeName, what: str) -> Lifetimes:
    """Return where resources of that scope are kept for the running code.

    Args:
        scope: The scope.
        what: The resource, for the error.

    Raises:
        ResourceError: No task, or no item, is running here, or it has ended.
    """
    if scope == "process":
        return lifetimes()
    found = _scopes[scope].get()
    if found is None:
        raise ResourceError(f"{what} is made once {_once(scope)}, and no {scope} is running here")
    if found.ended:
        raise ResourceError(f"{what} is made once {_once(scope)}, and the {scope} that this code belongs to has ended")
    if found.lifetimes is None:
        found.lifetimes = Lifetimes()
    return found.lifetimes


def scope_is_open(scope: ScopeName) -> bool:
    """Tell whether resources of that scope can be had here."""
    if scope == "process":
        return True
    found = _scopes[scope].get()
    return found is not None and not found.ended


def hide_narrower(scope: ScopeName) -> None:
    """Make the running context one in which a resource of that scope is made: nothing narrower is seen there."""
    for name, variable in _scopes.items():
        if WIDTH[name] < WIDTH[scope]:
            variable.set(None)


def in_task_scope(awaitable: Awaitable[T]) -> Coroutine[Any, Any, T]:
    """Await a task's body; what is made for the task is closed when it ends, before its outcome is known."""
    return _in_scope("task", awaitable)


def in_item_scope(awaitable: Awaitable[T]) -> Coroutine[Any, Any, T]:
    """Await an item's call; what is made for the item is closed when it ends."""
    return _in_scope("item", awaitable)


def items_are_scopes() -> bool:
    """Tell whether anything can be made for an item; else items need not be told apart."""
    return "item" in declared


async def _in_scope(name: ScopeName, awaitable: Awaitable[T]) -> T:
    scope = Scope(name)
    try:
        value = await awaitable
    except BaseException as exc:
        closing = scope.end(exc)
        if closing is None or not await closing:
            raise
        return cast(T, None)  # as a function whose `with` block was left so
    closing = scope.end()
    if closing is not None:
        await closing
    return value


async def _leave(made: Lifetimes, failure: BaseException | None) -> bool:
    closing = asyncio.ensure_future(made.leave(failure))
    _closing.add(closing)
    closing.add_done_callback(_closing.discard)
    try:
        # A cancellation ends the waiting; the closing goes on.
        return await asyncio.shield(closing)
    except asyncio.CancelledError:
        if not closing.done():
            closing.add_done_callback(_log_failure)
        raise


def _log_failure(closing: asyncio.Task[bool]) -> None:
    if not closing.cancelled() and (exc := closing.exception()) is not None:
        logger.error("a resource could not be closed after its task was cancelled", exc_info=exc)


def _once(scope: ScopeName) -> str:
    return "an item" if scope == "item" else f"a {scope}"
