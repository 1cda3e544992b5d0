"""Runs a command's coroutine so that SIGINT, SIGTERM and SIGHUP let it clean up, in bounded time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, TypeVar

import click

from asyncworker.errors import AsyncWorkerError

__all__ = ["run_interruptible"]

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: After so long it is said that something is still to be done, and after so long it is left as it is.
_PATIENCE_S = 1.0
_CLEAN_UP_S = 30.0


def run_interruptible(main: Coroutine[Any, Any, T], left: Callable[[], str]) -> T:
    """Run a coroutine on a loop of its own, in the main thread.

    The first signal cancels it; it ends once it has cleaned up, and the exit code is 128 + the signal's number. A
    second one, or half a minute after the first, ends the process at once. A signal that was ignored stays ignored.

    Args:
        main: The coroutine.
        left: Called before the process ends at once, in a signal handler: removes what can be removed right away, and
            returns what stays, for the user.

    Raises:
        SystemExit: A signal has ended it.
    """
    interrupts = _Interrupts(left)
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, interrupts)
    try:
        with asyncio.Runner() as runner:
            return runner.run(interrupts.run(main))
    except asyncio.CancelledError:
        raise SystemExit(interrupts.exit_code) from None
    except AsyncWorkerError as error:
        if interrupts.number:
            click.echo(f"Error: {error}", err=True)
            raise SystemExit(interrupts.exit_code) from None
        raise
    finally:
        if not interrupts.number:  # else the process is on its way out, and must not hang there either
            for number in taken:
                signal.signal(number, before[number])


class _Interrupts:
    """The signals that come while a coroutine runs. The handlers run in the main thread, between two of its steps."""

    def __init__(self, left: Callable[[], str]) -> None:
        self.number = 0
        self._left = left
        self._task: asyncio.Task[Any] | None = None
        self._said = False

    @property
    def exit_code(self) -> int:
        """As a shell reports a process that a signal has ended."""
        return 128 + (self.number or signal.SIGINT)

    async def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run it in the task that a signal cancels."""
        self._task = asyncio.current_task()
        if self.number:
            main.close()
            raise asyncio.CancelledError
        return await main

    def __call__(self, number: int, _: FrameType | None) -> None:
        if self.number:
            self._end()
        self.number = number
        signal.signal(signal.SIGALRM, self._wait_no_longer)
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE_S)
        if self._task is not None and not self._task.done():
            self._task.cancel()
            self._task.get_loop().call_soon_threadsafe(lambda: None)  # it sleeps until something comes

    def _wait_no_longer(self, _: int, __: FrameType | None) -> None:
        if self._said:
            self._end()
        self._said = True
        _say("cleaning up; interrupt again to end at once")
        signal.setitimer(signal.ITIMER_REAL, _CLEAN_UP_S - _PATIENCE_S)

    def _end(self) -> None:
        stays = self._left()
        if stays:
            _say(stays)
        os._exit(self.exit_code)


def _say(text: str) -> None:
    # Not through Python's buffered streams: a handler may run within a write to one of them.
    shows_cursor = "\x1b[?25h\r" if os.isatty(2) else ""  # a bar hides it
    with contextlib.suppress(OSError):
        os.write(2, f"{shows_cursor}asyncworker: {text}\n".encode(errors="replace"))
