"""Debug mode: what may be used on one thread only is checked to be; a violation is logged with its stack.

It is on in the tests, whose workers fail them for a violation.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from typing import Any

__all__ = ["VIOLATION", "check", "checked_loop", "debugging", "set_debug", "violations"]

logger = logging.getLogger(__name__)

#: How a violation begins in the log.
VIOLATION = "asyncworker debug:"

#: Violations of this process.
violations: list[str] = []

_enabled = False


def set_debug(enabled: bool) -> None:
    """Turn the checks on or off; counts for loops that are started later."""
    global _enabled
    _enabled = enabled


def debugging() -> bool:
    """Tell whether the checks are on."""
    return _enabled


def check(holds: bool, what: str) -> None:
    """Log a violation with the caller's stack unless what is checked holds; in debug mode only."""
    if _enabled and not holds:
        violations.append(what)
        stack = "".join(traceback.format_stack()[:-1])
        logger.error("%s %s, on thread %s:\n%s", VIOLATION, what, threading.current_thread().name, stack)


def checked_loop(loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
    """Return a loop of the same kind that checks who uses it: the thread that runs it. Closes the one given."""
    kind: Any = type(loop)
    loop.close()
    found: asyncio.AbstractEventLoop = type(f"Checked{kind.__name__}", (_Checked, kind), {})()
    return found


class _Checked:
    """Checks of an event loop. Before it runs for the first time, whoever made it may use it."""

    owner: int | None = None

    def run_forever(self) -> None:
        self.owner = threading.get_ident()
        super().run_forever()  # type: ignore[misc]

    def _check(self, what: str) -> None:
        check(self.owner in (None, threading.get_ident()), f"{what} of the event loop is used off its thread")

    def call_soon(self, *args: Any, **kwargs: Any) -> Any:
        self._check("call_soon(), or a future or a task,")
        return super().call_soon(*args, **kwargs)  # type: ignore[misc]

    def call_later(self, *args: Any, **kwargs: Any) -> Any:
        self._check("call_later()")
        return _CheckedTimer(self, super().call_later(*args, **kwargs))  # type: ignore[misc]

    def call_at(self, *args: Any, **kwargs: Any) -> Any:
        self._check("call_at()")
        timer = super().call_at(*args, **kwargs)  # type: ignore[misc]
        return timer if isinstance(timer, _CheckedTimer) else _CheckedTimer(self, timer)

    def create_task(self, *args: Any, **kwargs: Any) -> Any:
        self._check("create_task()")
        return super().create_task(*args, **kwargs)  # type: ignore[misc]

    def create_future(self) -> Any:
        self._check("create_future()")
        return super().create_future()  # type: ignore[misc]


class _CheckedTimer:
    __slots__ = ("__weakref__", "_loop", "_timer")

    def __init__(self, loop: _Checked, timer: Any) -> None:
        self._loop = loop
        self._timer = timer

    def cancel(self) -> None:
        self._loop._check("a timer")
        self._timer.cancel()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._timer, name)
