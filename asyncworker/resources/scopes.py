"""Where a resource lives: in the process, or in the task or the item that runs here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from contextvars import ContextVar
from typing import Any, Literal, TypeVar

from asyncworker.errors import ResourceError
from asyncworker.resources.lifetimes import Lifetimes, lifetimes

__all__ = [
    "WIDTH",
    "ScopeName",
    "declared",
    "hide_narrower",
    "in_item_scope",
    "in_task_scope",
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


class _Scope:
    """One task or one item. It costs nothing until something is made in it."""

    __slots__ = ("ended", "lifetimes")

    def __init__(self) -> None:
        self.lifetimes: Lifetimes | None = None
        self.ended = False


_task_scope: ContextVar[_Scope | None] = ContextVar("asyncworker_task_scope", default=None)
_item_scope: ContextVar[_Scope | None] = ContextVar("asyncworker_item_scope", default=None)
_scopes: dict[ScopeName, ContextVar[_Scope | None]] = {"task": _task_scope, "item": _item_scope}

#: Closings whose task was cancelled meanwhile; the loop itself holds tasks weakly.
_closing: set[asyncio.Task[None]] = set()


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
    return _in_scope(_task_scope, awaitable)


async def in_item_scope(awaitable: Awaitable[T]) -> T:
    """Await an item's call; what is made for the item is closed when it ends."""
    return await (_in_scope(_item_scope, awaitable) if "item" in declared else awaitable)


async def _in_scope(variable: ContextVar[_Scope | None], awaitable: Awaitable[T]) -> T:
    outer = variable.get()
    scope = _Scope()
    variable.set(scope)
    try:
        return await awaitable
    finally:
        variable.set(outer)
        scope.ended = True
        if scope.lifetimes is not None:
            await _close(scope.lifetimes)


async def _close(made: Lifetimes) -> None:
    closing = asyncio.ensure_future(made.close())
    _closing.add(closing)
    closing.add_done_callback(_closing.discard)
    # A cancellation ends the waiting; the closing goes on.
    await asyncio.shield(closing)


def _once(scope: ScopeName) -> str:
    return "an item" if scope == "item" else f"a {scope}"
