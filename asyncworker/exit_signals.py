"""Signals that end a command before it has started anything: at once, with the usual exit code and without a word.

While modules are imported, an exception from a signal handler shows as a traceback through the import system, or is
swallowed where a callback of the garbage collector runs. Imported before everything else: it imports nothing large.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # `signal` itself is this and 10 ms of enumerations
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["end_at_once", "ending_at_once"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ending_at_once:
    """Within the block, SIGINT, SIGTERM and SIGHUP end the process at once with exit code 128 + n."""

    def __enter__(self) -> None:
        self._before = [(number, signal.getsignal(number)) for number in _SIGNALS]
        end_at_once()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before:
            if handler is not None and handler is not signal.SIG_IGN:
                _set(number, handler)


def end_at_once() -> None:
    """Have SIGINT, SIGTERM and SIGHUP end the process at once from now on; what is ignored, as by nohup, stays so."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            _set(number, _end)


def _set(number: int, handler: Any) -> None:
    try:
        signal.signal(number, handler)
    except ValueError:
        return  # not the main thread, to which no signals come


def _end(number: int, _: object) -> None:
    os._exit(128 + number)
