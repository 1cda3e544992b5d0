"""The outbox: what the loop and its threads tell the main thread, in order, with one wake-up for many."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Outbox", "OutboxThread"]

logger = logging.getLogger(__name__)


class Outbox:
    """Events for one reader thread, which polls :meth:`fileno` and calls :meth:`drain`."""

    def __init__(self) -> None:
        self._events: deque[Callable[[], None]] = deque()
        self._rung = False
        self._closed = False
        if hasattr(os, "eventfd"):
            self._read_fd = self._write_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._read_fd, self._write_fd = os.pipe()
            os.set_blocking(self._read_fd, False)
            os.set_blocking(self._write_fd, False)

    def fileno(self) -> int:
        """The descriptor that becomes readable when an event waits."""
        return self._read_fd

    def put(self, event: Callable[[], None]) -> None:
        """Leave an event; from any thread."""
        self._events.append(event)
        if not self._rung and not self._closed:
            self._rung = True
            os.write(self._write_fd, (1).to_bytes(8, "little"))

    def drain(self) -> None:
        """Run all events that wait. On the reader thread only.

        An event that raises does not keep the others from running; the first ``SystemExit`` or
        ``KeyboardInterrupt`` is raised once all have run. Nothing is left where it is closed: by a signal handler,
        which stopped the pool after the poll that saw an event here.
        """
        if self._closed:
            return
        # Read, then lower the flag, then drain: in any other order an event can wait for ever.
        with contextlib.suppress(BlockingIOError):
            os.read(self._read_fd, 4096)
        self._rung = False
        leave: BaseException | None = None
        while self._events:
            event = self._events.popleft()
            try:
                event()
            except Exception:
                logger.exception("could not settle a task")
            except BaseException as exc:
                leave = leave or exc
        if leave is not None:
            raise leave

    def close(self) -> None:
        """Close the descriptors, once; later events stay unread."""
        if self._closed:
            return
        self._closed = True
        for fd in {self._read_fd, self._write_fd}:
            os.close(fd)


class OutboxThread:
    """A reader for an outbox where no hub polls it."""

    NAME = "asyncworker-outbox"

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name=self.NAME, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop reading; returns when the last event that was begun has run."""
        self._stopping = True
        if self._thread.is_alive():
            self._thread.join()

    def _main(self) -> None:
        while not self._stopping:
            if select.select([self._outbox.fileno()], [], [], 0.2)[0]:
                self._outbox.drain()
