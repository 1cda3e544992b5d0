"""Objects that live as long as their event loop: made lazily once, closed in reverse order at the end."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from typing import Any, Protocol, TypeVar

__all__ = ["Closeable", "Lifetimes", "lifetimes"]

logger = logging.getLogger(__name__)


class Closeable(Protocol):
    """Object with an async ``close()``, whose lifetime can be managed."""

    async def close(self) -> None:
        """Give back what it holds."""


T = TypeVar("T", bound=Closeable)


class Lifetimes:
    """Objects by key, of one event loop, one task or one item. Used on that loop only."""

    def __init__(self) -> None:
        self._made: dict[Hashable, asyncio.Future[Any]] = {}

    async def use(self, key: Hashable, make: Callable[[], Awaitable[T]]) -> T:
        """Return the object of that key; the first caller makes it, others wait for the same one.

        A failed making is raised to all who wait for it, and tried afresh by the next caller. A caller that is
        cancelled does not cancel the making for the others.
        """
        making = self._made.get(key)
        if making is not None and _has_made(making):
            made: T = making.result()  # by far the most calls end here: one for each item of a fan-out
            return made
        if making is None or making.done():
            making = self._made[key] = asyncio.ensure_future(self._make(key, make))
        result: T = await asyncio.shield(making)
        return result

    def made(self, key: Hashable) -> Any:
        """Return the object of that key; ``None`` where there is none yet."""
        making = self._made.get(key)
        return making.result() if making is not None and _has_made(making) else None

    def discard(self, key: Hashable, made: Closeable) -> None:
        """Forget an object that has ended by itself; the next caller makes another."""
        making = self._made.get(key)
        if making is not None and _has_made(making) and making.result() is made:
            del self._made[key]

    async def close(self) -> None:
        """Close all, the newest first. An object that fails to close is logged; the others are closed all the same."""
        async for key, made in self._newest_first():
            try:
                await made.close()
            except Exception:
                logger.exception("could not close resource %r", key)

    async def leave(self, failure: BaseException | None) -> bool:
        """Leave all, the newest first, as an ``AsyncExitStack`` does; raises what takes the failure's place.

        Args:
            failure: What ended the task or item; ``None`` where it came to its end.

        Returns:
            Whether the failure was suppressed.
        """
        pending = failure
        async for _, made in self._newest_first():
            try:
                if await made.leave(pending):
                    pending = None
            except BaseException as exc:
                if exc.__context__ is None and exc is not pending:
                    exc.__context__ = pending
                pending = exc
        if pending is not None and pending is not failure:
            raise pending
        return failure is not None and pending is None

    async def _newest_first(self) -> AsyncIterator[tuple[Hashable, Any]]:
        while self._made:
            unfinished = [making for making in self._made.values() if not making.done()]
            if unfinished:
                # They may be using what was made before them.
                for making in unfinished:
                    making.cancel()
                await asyncio.wait(unfinished)
                continue
            key, making = self._made.popitem()
            if _has_made(making):
                yield key, making.result()

    async def _make(self, key: Hashable, make: Callable[[], Awaitable[T]]) -> T:
        made = await make()
        # What it uses was begun later and finished earlier: it is the end that counts.
        self._made[key] = self._made.pop(key)
        return made


def _has_made(making: asyncio.Future[Any]) -> bool:
    return making.done() and not making.cancelled() and making.exception() is None


_by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Lifetimes] = weakref.WeakKeyDictionary()


def lifetimes() -> Lifetimes:
    """Return the running loop's objects."""
    loop = asyncio.get_running_loop()
    found = _by_loop.get(loop)
    if found is None:  # `setdefault` would make one for each call, and each item of a fan-out calls
        found = _by_loop[loop] = Lifetimes()
    return found
