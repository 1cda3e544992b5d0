"""Asking a run to stop early, so that the process can end: what is left is for another attempt."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Drain"]


class Drain:
    """A request that may come before or while the run listens. Used on the run's event loop.

    Args:
        grace_s: How long items that are in flight may take to finish; then they are cancelled, and run again later.
    """

    def __init__(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self._requested = False
        self._notify: Callable[[], None] | None = None

    def request(self) -> None:
        """Ask for it; more than once is once."""
        if not self._requested:
            self._requested = True
            if self._notify is not None:
                self._notify()

    @property
    def requested(self) -> bool:
        """Whether it was asked for."""
        return self._requested

    def listen(self, notify: Callable[[], None]) -> None:
        """Have ``notify`` called once it is asked for, or at once where it was."""
        self._notify = notify
        if self._requested:
            notify()
