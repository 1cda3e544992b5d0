"""The asyncio task that runs item after item, and what keeps one item's doings out of the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any

from asyncworker.iterate.item import Item, item_here

__all__ = ["Puller"]

_puller: ContextVar[Puller | None] = ContextVar("asyncworker_puller", default=None)


class Puller(asyncio.Task[None]):
    """One of the pullers of a run.

    To an item it is *the* task that it runs in, which it may cancel, by ``asyncio.timeout`` among others, as long as it
    runs. A cancellation that comes later, out of a timer or a child that the item has left behind, finds a task that is
    over: ``cancel`` returns False, as that of a finished task does, and neither a later item nor the puller notices.

    Attributes:
        number: Its place among the pullers of the run.
        item: The item that is running.
        over: It takes no further item. An item has cancelled it, or set a context variable, and another
            puller takes its place, so that no later item meets what was left behind; or the run stops.
        stopped: The run has cancelled it.
    """

    def __init__(self, body: Callable[[Puller], Coroutine[Any, Any, None]], number: int, context: Context) -> None:
        self.number = number
        self.item: Item | None = None
        self.over = False
        self.stopped = False
        context.run(_puller.set, self)
        super().__init__(body(self), loop=asyncio.get_running_loop(), name=f"iterate-{number}", context=context)

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the item that is running, unless one asks that ran here before it."""
        if not self.stopped:
            if self.item is None or (_puller.get() is self and item_here() is not self.item):
                return False
            self.over = True
        return super().cancel(msg)

    def stop(self) -> None:
        """Cancel the puller, and the item that it runs."""
        self.stopped = self.over = True
        super().cancel()
