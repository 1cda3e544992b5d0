"""The watchdog: a thread that asks the loop for a sign of life and names the coroutine that keeps it."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time

from asyncworker.loop.debug import check
from asyncworker.loop.live import _callers, format_frames, live_jobs
from asyncworker.loop.thread import LoopThread

__all__ = ["Watchdog"]

logger = logging.getLogger(__name__)

#: Where a thread waits for a lock, a queue, a future of another thread.
WAITING = ("/threading.py", "/queue.py")


class Watchdog:
    """Logs a warning, once a stall, when the loop does not answer for ``blocked_after_s``.

    Args:
        loop_thread: Whose loop to watch.
        blocked_after_s: Seconds without an answer that count as blocked; up to a quarter more passes unnoticed.
    """

    def __init__(self, loop_thread: LoopThread, *, blocked_after_s: float) -> None:
        self._loop_thread = loop_thread
        self._blocked_after_s = blocked_after_s
        self._stop = threading.Event()
        self._answered_at_s = time.monotonic()
        self._asked_at_s: float | None = None
        self._thread = threading.Thread(target=self._main, name="asyncworker-watchdog", daemon=True)
        self.stalls = 0
        """Stalls seen so far."""

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; returns when the thread has ended."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(1)

    @property
    def lag_s(self) -> float:
        """How long the loop has owed an answer; 0 when it owes none."""
        asked_at_s = self._asked_at_s
        return 0.0 if asked_at_s is None else time.monotonic() - asked_at_s

    def _answer(self) -> None:
        self._asked_at_s = None

    def _main(self) -> None:
        reported = False
        while not self._stop.wait(self._blocked_after_s / 4):
            if self._asked_at_s is None:
                if reported:
                    logger.warning("the event loop runs again")
                    reported = False
                self._asked_at_s = time.monotonic()
                try:
                    self._loop_thread.loop.call_soon_threadsafe(self._answer)
                except RuntimeError:
                    return  # the loop was closed
            elif not reported and self.lag_s >= self._blocked_after_s:
                reported = True
                self._report()
                self.stalls += 1

    def _report(self) -> None:
        task = asyncio.current_task(self._loop_thread.loop)
        frame = sys._current_frames().get(self._loop_thread.ident or 0)
        job = live_jobs.owner_of(task)
        who = f"task {job}" if job is not None else f"asyncio task {task.get_name()!r}" if task else "a callback"
        stack = "\n  ".join(format_frames(list(_callers(frame))[::-1]))
        waits_in = frame.f_code.co_filename if frame is not None else ""
        check(not waits_in.endswith(WAITING), f"the event loop's thread waits for another one:\n  {stack}")
        logger.warning(
            "the event loop is blocked for %.1f s by %s; nothing else runs in this process until it awaits. "
            "Its stack, outermost first:\n  %s",
            self.lag_s,
            who,
            stack,
        )
