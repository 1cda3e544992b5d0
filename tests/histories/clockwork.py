"""An event loop without a clock: when nothing else is left to do, the world makes a step, or time jumps ahead."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

__all__ = ["Inline", "LawBroken", "VirtualLoop"]


class LawBroken(AssertionError):
    """A law does not hold."""


class Inline(ThreadPoolExecutor):
    """Does at once, on the thread that asks, what others leave to a thread."""

    def __init__(self) -> None:
        super().__init__(max_workers=1)

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(call(*arguments, **options))
        except Exception as error:
            done.set_exception(error)
        return done


class _Selector(selectors.SelectSelector):
    """Asks the world before it lets time pass."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.step: Callable[[], bool] = lambda: False

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready or timeout == 0 or self.step():
            return ready
        if timeout is None:
            raise LawBroken("somebody waits, and nothing is left that could happen")
        self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop.

    Args:
        step: Called when there is nothing to do now; makes something happen, and returns whether it has.
    """

    def __init__(self, step: Callable[[], bool]) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self._virtual.step = step
        self.set_default_executor(Inline())

    def time(self) -> float:
        return self._virtual.now
