"""Status of a supervisor's workers: a file for `asyncworker health`."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from asyncworker.worker.health import BEAT_S, PlaceHealth, Supervision, write_private
from asyncworker.worker.place import Slot

__all__ = ["SupervisorSigns"]

logger = logging.getLogger(__name__)


class SupervisorSigns:
    """Is called at each turn of a supervisor.

    Args:
        path: The health file; ``None``: none is written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._written: tuple[PlaceHealth, ...] = ()
        self._written_at_s = 0.0
        self._failed = False

    def watch(self, slots: Sequence[Slot]) -> None:
        """Write the file, once a second or where something has changed."""
        if self._path is None:
            return
        places = tuple(map(self._health_of, slots))
        now_s = time.monotonic()
        if places == self._written and now_s - self._written_at_s < BEAT_S:
            return
        self._written, self._written_at_s = places, now_s
        try:
            write_private(self._path, msgspec.json.encode(Supervision(os.getpid(), time.time(), places)))
        except OSError as exc:
            if not self._failed:
                logger.error("cannot write the health file: %s", exc)
            self._failed = True

    def _health_of(self, slot: Slot) -> PlaceHealth:
        since_s = slot.bad_since_s
        at_s = None if since_s is None else round(time.time() - (time.monotonic() - since_s), 1)
        before = next((each for each in self._written if each.node == slot.node), None)
        if at_s is not None and before is not None and before.bad_since_at_s is not None:
            at_s = before.bad_since_at_s  # the same, but for what the two clocks differ
        return PlaceHealth(slot.node, slot.restarts, at_s)

    def remove(self) -> None:
        """Take the file away: there is no supervisor any more."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
