"""The start gate: a task begins only once its early acknowledgement is with the broker.

A transport that collects acknowledgements closes the gate, and opens it for a moment whenever it has sent them. A task
that began before could be delivered a second time, though it is to run at most once. All of it is the main thread's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

__all__ = ["StartGate", "start_gate"]

logger = logging.getLogger(__name__)


class StartGate:
    """Holds back what starts jobs, in order."""

    def __init__(self) -> None:
        self.closed = False
        self._waiting: list[Callable[[], object]] = []

    @property
    def is_waited_for(self) -> bool:
        """Whether something waits to be let through."""
        return bool(self._waiting)

    def call(self, start: Callable[[], object]) -> None:
        """Call it now, or when those are let through that wait."""
        if self.closed:
            self._waiting.append(start)
        else:
            start()

    def let_through(self) -> None:
        """Call what waits."""
        waiting, self._waiting = self._waiting, []
        for start in waiting:
            try:
                start()
            except Exception:
                # The caller is the hub: an error here would end the worker, and leave the others unstarted.
                logger.exception("a task could not be started")

    def open(self) -> None:
        """Hold nothing back any more."""
        self.closed = False
        self.let_through()


#: The process's own.
start_gate = StartGate()
