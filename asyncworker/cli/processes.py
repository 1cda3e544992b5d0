"""Signals as exits, so that the command line stops the children that it started."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from asyncworker.processes import Child

__all__ = ["Child", "signals_as_exit"]


@contextlib.contextmanager
def signals_as_exit() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the main thread as Ctrl-C does, so that ``with`` blocks end what they started.

    What is ignored, as SIGHUP is below ``nohup``, stays ignored.
    """

    def unwind(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    wanted = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, unwind) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
