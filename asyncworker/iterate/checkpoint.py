"""Recorder protocol of the engine, its counters, and the recorder of runs without a store."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Protocol

import msgspec

from asyncworker.clock import SYSTEM_CLOCK, Clock
from asyncworker.counters import counter
from asyncworker.errors import AsyncWorkerError
from asyncworker.iterate.keys import Keys
from asyncworker.store import ItemFailure, Progress, RunState

#: Of what items come to, in the order of a tally.
COUNTED = ("done", "skipped", "failed", "retried", "resumed")

__all__ = ["MemoryRecorder", "Recorder", "Stop", "Tally"]

Stop = Callable[[AsyncWorkerError], None]


class Recorder(Protocol):
    """Interface through which the engine reports and queries a run. Called on the run's event loop."""

    run_id: str
    has_past: bool
    """Earlier attempts may have finished items, and `finished` is asked for each; else only for those with a key."""
    full: bool
    """More has settled than is recorded yet, or the run may have another holder: pullers wait for `room`."""
    careful: bool
    """Some items may kill the process, see `isolate`; or did, see `is_convicted`."""
    reserved: int
    """Items below this index may begin at once; for others, `reserve` is waited for."""

    def finished(self, index: int, digest: bytes | None) -> bool:
        """Return whether an earlier attempt of the run finished this item, and count it as resumed."""

    def compare(self, index: int, row: Mapping[str, Any]) -> None:
        """Meet the next row of a source that can change, whose items have no key.

        Raises:
            RunChanged: An earlier attempt of the run read another row at this place.
        """

    def wanted(self, digest: bytes) -> bool:
        """Return whether to run an item with this key; False for new ones if only failed ones are run again."""

    def source_ended(self, count: int) -> int:
        """Learn that the source has no more than these rows.

        Returns:
            How many items of earlier attempts it does not list any more; they stay what they were.

        Raises:
            RunChanged: One of them is not finished, and has no key.
        """

    def done(self, index: int, digest: bytes | None, value: Any) -> None:
        """An item returned. Raises where its value cannot be stored; then the item counts as not done."""

    def skipped(self, index: int, digest: bytes | None) -> None:
        """An item asked to be skipped."""

    def failed(self, failure: ItemFailure, digest: bytes | None = None) -> None:
        """An item failed for good."""

    def retried(self) -> None:
        """An attempt failed, and the item will be tried again."""

    def is_convicted(self, index: int, digest: bytes | None) -> bool:
        """Tell whether a process died twice while it ran this item alone: it is not run any more."""

    def is_suspect(self, index: int) -> bool:
        """Tell whether an item was in flight when a process died, or may have been; it has to run alone."""

    def is_accused(self, index: int, digest: bytes | None) -> bool:
        """Tell whether a process died already while it did; it runs after the other suspects."""

    async def isolate(self, index: int, digest: bytes | None) -> bool:
        """Record that an item begins which was in flight when a process died; tell whether it has to run alone."""

    async def survived(self) -> None:
        """Record that the item which had to run alone has run."""

    async def reserve(self, index: int) -> None:
        """Record that an item may begin, with those after it."""

    def check_hold(self) -> None:
        """Become full where the run may have another holder by now. Asked before items are begun."""

    async def room(self) -> None:
        """Wait until the recorder is not full."""

    def start(self, stop: Stop) -> None:
        """Begin to record; `stop` is called, once, where the run must not go on."""

    async def close(
        self, state: RunState, *, complete: bool = False, total: int | None = None, error: str = ""
    ) -> None:
        """Record what is left and how the run ended; ``pending``: it has not, another attempt will go on."""

    def abandon(self) -> None:
        """Record nothing more; after `close`, nothing is left to abandon."""

    def progress(self) -> Progress:
        """Where the run stands now."""

    def results(self) -> list[tuple[int, Any]] | None:
        """``(index, value)`` by index, where they are held in memory."""


class Tally:
    """The counters of a run, and what they say of it."""

    def __init__(self, progress: Progress, clock: Clock) -> None:
        self.run_id = progress.run_id
        self.has_past = False
        self.full = False
        self.careful = False
        self.reserved = sys.maxsize
        self._base = progress
        self._clock = clock
        self._done = progress.done
        self._skipped = progress.skipped
        self._failed = 0
        self._retried = 0
        self._resumed = 0
        self._counted = (self._done, self._skipped, 0, 0, 0)

    def retried(self) -> None:
        """An attempt failed, and the item will be tried again."""
        self._retried += 1

    def progress(self) -> Progress:
        """Where the run stands now."""
        at = self._base.finished_at or self._clock.now()
        return msgspec.structs.replace(
            self._base,
            done=self._done,
            skipped=self._skipped,
            failed=self._failed,
            retried=self._retried,
            resumed=self._resumed,
            updated_at=at,
        )

    def count(self) -> None:
        """Let the metrics know what is new since the last time."""
        now = (self._done, self._skipped, self._failed, self._retried, self._resumed)
        for name, value, before in zip(COUNTED, now, self._counted, strict=True):
            if value > before:
                counter(f"items.{name}", task=self._base.task).add(value - before)
        self._counted = now

    def _ended(self, state: RunState, complete: bool, total: int | None, error: str, at: datetime) -> None:
        """Take over how the run ended."""
        self.count()
        self._base = msgspec.structs.replace(
            self._base,
            state=state,
            complete=complete,
            total=self._base.total if total is None else total,
            error=error,
            finished_at=None if state == "running" else at,
        )


class MemoryRecorder(Tally):
    """Counts, and keeps results if they are wanted; for runs without a store."""

    def __init__(
        self,
        run_id: str,
        task: str,
        *,
        total: int | None = None,
        keep_results: bool = True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        now = clock.now()
        super().__init__(
            Progress(
                run_id=run_id, task=task, state="running", total=total, started_at=now, attempt_at=now, updated_at=now
            ),
            clock,
        )
        self._keys = Keys([])
        self._results: dict[int, Any] | None = {} if keep_results else None

    def finished(self, index: int, digest: bytes | None) -> bool:
        """Nothing is: there was no earlier attempt.

        Raises:
            SourceError: The item's key is that of an earlier item.
        """
        return digest is not None and self._keys.seen(digest, index)

    def compare(self, index: int, row: Mapping[str, Any]) -> None:
        """There is nothing to compare with."""

    def wanted(self, digest: bytes) -> bool:
        """All are."""
        return True

    def source_ended(self, count: int) -> int:
        """None were met before."""
        return 0

    def done(self, index: int, digest: bytes | None, value: Any) -> None:
        """An item returned."""
        self._done += 1
        if self._results is not None:
            self._results[index] = value

    def skipped(self, index: int, digest: bytes | None) -> None:
        """An item asked to be skipped."""
        self._skipped += 1

    def failed(self, failure: ItemFailure, digest: bytes | None = None) -> None:
        """An item failed for good."""
        self._failed += 1

    def is_convicted(self, index: int, digest: bytes | None) -> bool:
        """None is: it ends with its process."""
        return False

    def is_suspect(self, index: int) -> bool:
        """None is."""
        return False

    def is_accused(self, index: int, digest: bytes | None) -> bool:
        """None is."""
        return False

    async def isolate(self, index: int, digest: bytes | None) -> bool:
        """None has to be."""
        return False

    async def survived(self) -> None:
        """None had to."""

    async def reserve(self, index: int) -> None:
        """Nothing is recorded."""

    def check_hold(self) -> None:
        """Nobody else knows of it."""

    async def room(self) -> None:
        """There always is."""

    def start(self, stop: Stop) -> None:
        """Nothing to start."""

    async def close(
        self, state: RunState, *, complete: bool = False, total: int | None = None, error: str = ""
    ) -> None:
        """Keep how the run ended."""
        self._ended(state, complete, total, error, self._clock.now())

    def abandon(self) -> None:
        """Nothing is under way."""

    def results(self) -> list[tuple[int, Any]] | None:
        """``(index, value)`` by index, if they were to be kept."""
        return None if self._results is None else sorted(self._results.items(), key=lambda pair: pair[0])
