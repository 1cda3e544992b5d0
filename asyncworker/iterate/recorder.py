"""Write a run's checkpoint to the store, in small batched transactions."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from asyncworker.clock import SYSTEM_CLOCK, Clock, first_of
from asyncworker.counters import counter
from asyncworker.errors import AsyncWorkerError, RunCancelled, StoreError
from asyncworker.iterate.checkpoint import Stop, Tally
from asyncworker.iterate.keys import Keys, Outcome
from asyncworker.iterate.row_digests import RowDigests
from asyncworker.iterate.suspects import Suspects
from asyncworker.store import Batch, Bitmap, Counters, ItemFailure, ResultChunk, RunHold, RunState, patiently
from asyncworker.store.large import put_aside

if TYPE_CHECKING:
    from asyncworker.store import Store

__all__ = ["StoreRecorder"]

logger = logging.getLogger(__name__)

_flushes = counter("checkpoint.flushes")


class StoreRecorder(Tally):
    """Writes a run's checkpoint: one transaction every so often, one at a time, and one at the end.

    A store that does not answer is tried again for its `patience_s`; the run goes on meanwhile, until so much waits to
    be written that the pullers are held back, or nothing was written for `lease_s`: from then on another process may
    have taken the run over, as it may from one that was frozen.
    """

    #: What may wait to be written before pullers are held back, in items and in bytes of results.
    ITEMS_HELD = 50_000
    BYTES_HELD = 32 << 20
    #: A run with nothing new to say writes this often all the same: it may have been cancelled.
    HEARTBEAT_S = 1.0
    #: Items do not wait for longer than that to be recorded before they begin.
    AWAY_AFTER_S = 1.0
    #: The most results in one row.
    CHUNK_ITEMS = 1000
    CHUNK_BYTES = 1 << 20

    def __init__(
        self,
        store: Store,
        hold: RunHold,
        *,
        every_s: float = 0.25,
        keep_results: bool = True,
        encode: Callable[[Any], bytes] = msgspec.json.encode,
        first_index: int = 0,
        failed_only: bool = False,
        rows: RowDigests | None = None,
        lease_s: float = math.inf,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(hold.progress, clock)
        #: The bitmap counts from the first item of the source, which may be a part of another one.
        self._first_index = first_index
        self._store = store
        self._hold = hold
        self._every_s = every_s
        self._keep_results = keep_results
        self._encode = encode
        self._map = Bitmap(hold.finished_map)
        # Read whole before the map grows: what this attempt finishes is not asked for again.
        self._before = hold.finished_map
        self._before_bits = len(self._before) * 8
        self._keys = Keys(hold.keys) if hold.keyed else None
        #: Where an item that no attempt has settled before is not run.
        self._failed_only = failed_only
        self._rows = rows
        #: Failed in an earlier attempt, and not listed by the source any more: digest, and index that they have now.
        self._kept_failures: list[tuple[bytes, int]] = []
        self._failure_digests: list[bytes] = []
        self._suspects = Suspects(hold, first_index)
        self.has_past = True
        self.careful, self.reserved = self._suspects.any, self._suspects.reserved
        self._next_chunk = hold.next_chunk
        self._results: list[tuple[int, bytes, bytes | None]] = []
        self._results_bytes = 0
        self._failures: list[ItemFailure] = []
        self._changed = False
        self._closed = False
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        #: Set when the next checkpoint is written.
        self._written = asyncio.Event()
        #: What all pullers wait for whose item may not begin yet.
        self._reserving: asyncio.Future[None] | None = None
        self._flusher: asyncio.Task[None] | None = None
        self._stop: Stop | None = None
        self._given_up = False
        self._cuts = self._cuts_written = 0
        self._unwritten: Batch | None = None
        self._written_at = self._cut_at = clock.monotonic()
        self._lease_s = lease_s
        self._held_until = (self._cut_at if hold.asked_at_s is None else hold.asked_at_s) + lease_s
        #: Since when each answer of the store has come too late to prove that the run is held.
        self._late_since: float | None = None
        self.transactions = 0

    # -- told by the engine --------------------------------------------------------------------------------------------

    def finished(self, index: int, digest: bytes | None) -> bool:
        """Return whether an earlier attempt of the run finished this item, and count it as resumed.

        Raises:
            SourceError: The item's key is that of an earlier item.
        """
        self._suspects.seen = index + 1
        if digest is not None and self._keys is not None:
            found = self._keys.seen(digest, index)
        else:
            # Not by `_finished_before`: a call an item.
            place = index - self._first_index
            found = place < self._before_bits and bool(self._before[place >> 3] >> (place & 7) & 1)
        if found:
            self._resumed += 1
            self._changed = True
        return found

    def compare(self, index: int, row: Mapping[str, Any]) -> None:
        """Meet the next row of a source that can change.

        Raises:
            RunChanged: An earlier attempt of the run read another row at this place.
        """
        if self._rows is not None:
            self._rows.meet(index - self._first_index, row)
            self._changed = True

    def wanted(self, digest: bytes) -> bool:
        """Return whether to run an item with this key."""
        return not self._failed_only or self._keys is None or self._keys.known(digest)

    def source_ended(self, count: int) -> int:
        """Keep what earlier attempts have settled, and the source does not list any more; return how many items.

        Raises:
            RunChanged: One of them is not finished, and has no key.
        """
        if self._keys is not None:
            gone = self._keys.gone(self._first_index + count)
            self._kept_failures = gone.failed
            self._failed += len(gone.failed)
            self._changed = True
            return gone.items
        if self._rows is None:
            return 0
        missing = self._rows.missing(count)
        for place in missing:
            if not self._finished_before(place):
                raise self._rows.ended_early(count, place)
        self._resumed += len(missing)
        return len(missing)

    def _finished_before(self, place: int) -> bool:
        return place < self._before_bits and bool(self._before[place >> 3] >> (place & 7) & 1)

    def done(self, index: int, digest: bytes | None, value: Any) -> None:
        """An item returned. Raises what `encode` raises; then the item counts as not done."""
        if self._closed:
            return
        if self._keep_results:
            body = self._encode(value)
            self._results.append((index, body, digest))
            self._results_bytes += len(body)
        self._done += 1
        self._note_end(index, digest, "done")
        if self._results_bytes >= self.BYTES_HELD or len(self._results) >= self.ITEMS_HELD:
            self._hold_back()

    def skipped(self, index: int, digest: bytes | None) -> None:
        """An item asked to be skipped."""
        if not self._closed:
            self._skipped += 1
            self._note_end(index, digest, "skipped")
            self._check_room()

    def failed(self, failure: ItemFailure, digest: bytes | None = None) -> None:
        """An item failed for good."""
        if not self._closed:
            self._failed += 1
            self._failures.append(failure)
            self._failure_digests.append(digest or b"")
            if self._keys is not None and digest is not None:
                self._keys.add(digest, failure.index, "failed")
            self._changed = True
            self._check_room()

    def _note_end(self, index: int, digest: bytes | None, outcome: Outcome) -> None:
        if self._keys is None or digest is None:
            self._map.add(index - self._first_index)
        else:
            self._keys.add(digest, index, outcome)
        self._changed = True

    def _check_room(self) -> None:
        if (
            len(self._results) >= self.ITEMS_HELD
            or self._results_bytes >= self.BYTES_HELD
            or len(self._failures) >= self.ITEMS_HELD
        ):
            self._hold_back()

    def is_convicted(self, index: int, digest: bytes | None) -> bool:
        """Tell whether a process died twice while it ran this item alone: it is not run any more."""
        return self._suspects.is_convicted(index, digest)

    def is_suspect(self, index: int) -> bool:
        """Tell whether an item was in flight when a process died, or may have been; it has to run alone."""
        return self._suspects.is_suspect(index)

    def is_accused(self, index: int, digest: bytes | None) -> bool:
        """Tell whether a process died already while it did; it runs after the other suspects."""
        return self._suspects.is_accused(index, digest)

    async def isolate(self, index: int, digest: bytes | None) -> bool:
        """Record that an item begins which was in flight when a process died; tell whether it has to run alone.

        Called for one item at a time. The first one beyond ends it, before others begin.
        """
        suspects = self._suspects
        if not suspects.isolating:
            return False
        alone = suspects.is_suspect(index)
        if alone:
            suspects.put_on_trial(index, digest)
        else:
            suspects.acquit()
            self.careful = suspects.any
        await self._until_cut_is_written()
        return alone

    async def survived(self) -> None:
        """Record that the item which had to run alone has run, before one of another run does."""
        self._suspects.survived()
        await self._until_cut_is_written()

    async def reserve(self, index: int) -> None:
        """Record that an item may begin, with those after it."""
        while index >= self.reserved and not (self._given_up or self._closed or self._is_store_away()):
            self._suspects.wait_for_more()
            self._changed = True
            self._wake.set()
            if self._reserving is None or self._reserving.done():
                self._reserving = asyncio.ensure_future(first_of(self._written, self.AWAY_AFTER_S, self._clock))
            await asyncio.shield(self._reserving)

    def _is_store_away(self) -> bool:
        # Items go on without it then: that none begins unrecorded is worth less than that.
        return self._unwritten is not None and self._clock.monotonic() >= self._cut_at + self.AWAY_AFTER_S

    def _note_written(self) -> None:
        self._written.set()
        self._written = asyncio.Event()

    async def _until_cut_is_written(self) -> None:
        """Wait until what stands now is in the store, or the run is being stopped."""
        wanted = self._cuts + 1
        while self._cuts_written < wanted and not (self._given_up or self._closed):
            self._changed = True
            self._hold_back()
            await self.room()

    def check_hold(self) -> None:
        """Hold pullers back where nothing was written for a lease."""
        if self._clock.monotonic() >= self._held_until and not self._closed:
            self._hold_back()

    def _hold_back(self) -> None:
        """Let pullers wait for the next checkpoint, which is due now."""
        self.full = True
        self._room.clear()
        self._wake.set()

    async def room(self) -> None:
        """Wait until what waits to be written is within bounds."""
        await self._room.wait()

    def results(self) -> list[tuple[int, Any]] | None:
        """They are in the store, not here."""
        return None

    # -- writing -------------------------------------------------------------------------------------------------------

    def start(self, stop: Stop) -> None:
        """Begin to write every so often; `stop` is called where the run was cancelled, lost, or cannot be written."""
        self._stop = stop
        self._flusher = asyncio.create_task(self._flush_for_ever(), name=f"iterate-checkpoint-{self.run_id}")

    async def close(
        self, state: RunState, *, complete: bool = False, total: int | None = None, error: str = ""
    ) -> None:
        """Write what is left and how the run ended.

        Raises:
            RunTakenOver: The run has another holder; nothing was written.
            StoreError: The store did not take it in time.
        """
        self._closed = True
        if self._flusher is not None:
            # A transaction that is under way is waited for, not cut: its outcome would be unknown.
            self._flusher.cancel()
            await asyncio.wait([self._flusher])
        at = self._clock.now()
        self._ended(state, complete, total, error, at)
        if self._unwritten is not None:
            await self._write_patiently()
        self._unwritten = self._batch(state, complete, total, error, at)
        await self._write_patiently()

    def abandon(self) -> None:
        """Write nothing more, but for the transaction that is under way."""
        self._closed = True
        self._note_written()
        if self._flusher is not None:
            self._flusher.cancel()

    async def _flush_for_ever(self) -> None:
        try:
            while True:
                await self._pause()
                due = self._clock.monotonic() >= self._written_at + self.HEARTBEAT_S
                if self._changed or due or self.full or self._unwritten is not None:
                    await self._flush()
        except asyncio.CancelledError:
            raise
        except AsyncWorkerError as exc:
            self._give_up(exc)
        except Exception as exc:
            logger.exception("run %s: its checkpoint cannot be written", self.run_id)
            self._give_up(StoreError(f"run {self.run_id}: its checkpoint cannot be written: {exc!r}"))

    def _give_up(self, reason: AsyncWorkerError) -> None:
        self._given_up = True
        self.full = False
        self._room.set()
        self._note_written()
        if self._stop is not None:
            self._stop(reason)

    async def _pause(self) -> None:
        """Wait for the next checkpoint's time, or until there is too much to write.

        Counted from where the last one was cut, not from where it was written: what a crash costs is the time between,
        and one transaction. A store that takes longer than that for each still leaves room for others.
        """
        due_s = self._cut_at + self._every_s - self._clock.monotonic()
        await first_of(self._wake, max(due_s, self._every_s / 4), self._clock)
        self._wake.clear()

    async def _flush(self) -> None:
        if self._unwritten is None:
            self._unwritten = self._batch("running", False, None, "", self._clock.now())
        # Shielded: a close in the middle of a transaction lets it end.
        writing = asyncio.ensure_future(self._write_patiently())
        try:
            cancel_requested = await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])
            if writing.exception() is not None:
                logger.warning(
                    "run %s: a checkpoint failed while the run was closed: %s", self.run_id, writing.exception()
                )
            raise
        if cancel_requested:
            self._give_up(RunCancelled(f"run {self.run_id} was cancelled"))

    async def _write_patiently(self) -> bool:
        cancel_requested = await patiently(
            self._write_once,
            patience_s=self._store.patience_s,
            what=f"run {self.run_id}: checkpoint",
            clock=self._clock,
        )
        self._unwritten = None
        _flushes.add()
        self._written_at = self._clock.monotonic()
        if self._written_at < self._held_until or self._closed:
            self.full = False
            self._room.set()
            self._late_since = None
        else:
            self._hold_back()
            self._bear_lateness()
        return cancel_requested

    def _bear_lateness(self) -> None:
        """The answer was so long in coming that another process may have the run: so may the next one be, for a while.

        Raises:
            StoreError: All were for the store's patience.
        """
        if self._late_since is None:
            self._late_since = self._written_at
            logger.warning(
                "run %s: the store took more than a lease (%g s) to answer; no item begins until it takes less",
                self.run_id,
                self._lease_s,
            )
        elif self._written_at - self._late_since >= self._store.patience_s:
            raise StoreError(
                f"run {self.run_id}: each answer of the store took more than a lease ({self._lease_s:g} s), for "
                f"{self._written_at - self._late_since:.0f} s: nobody can tell whether the run is still this process's"
            )

    async def _write_once(self) -> bool:
        batch = self._unwritten
        assert batch is not None
        if self._store.payloads is not None:
            # Kept so: what lies there already is not written again by the next try.
            small = await put_aside(self.run_id, batch.results, self._store.payloads)
            self._unwritten = batch = msgspec.structs.replace(batch, results=small)
        self.transactions += 1
        # Others count from when they see it, which may be before it is known here.
        held_until = self._clock.monotonic() + self._lease_s
        cancel_requested = await self._store.write(self._hold, batch, self._next_chunk)
        self._held_until = held_until
        self._suspects.stored(batch.reserved)
        self.reserved = self._suspects.reserved
        self._cuts_written = self._cuts
        self._note_written()
        self._next_chunk += max(len(batch.results), len(batch.keys))
        return cancel_requested

    def _batch(self, state: RunState, complete: bool, total: int | None, error: str, at: datetime) -> Batch:
        """Take what is new since the last one."""
        self.count()
        results, self._results, self._results_bytes = self._results, [], 0
        failures, self._failures = self._failures, []
        digests, self._failure_digests = self._failure_digests, []
        kept, self._kept_failures = self._kept_failures, []
        first_row, rows = (0, b"") if self._rows is None else self._rows.take()
        self._changed = False
        self._cut_at = self._clock.monotonic()
        self._cuts += 1
        careful: dict[str, Any] = self._suspects.to_store(closing=state != "running")
        self.reserved = self._suspects.reserved
        return Batch(
            **careful,
            counters=Counters(self._done, self._skipped, self._failed, self._retried, self._resumed),
            finished_map=bytes(self._map) if self._keys is None else b"",
            results=_chunks(results, self.CHUNK_ITEMS, self.CHUNK_BYTES),
            keys=[] if self._keys is None else self._keys.take(),
            failures=failures,
            failure_digests=digests,
            kept_failures=kept,
            first_row=first_row,
            rows=rows,
            total=total,
            state=state,
            complete=complete,
            error=error,
            at=at,
        )


def _chunks(results: list[tuple[int, bytes, bytes | None]], most_items: int, most_bytes: int) -> list[ResultChunk]:
    # Sorted, so that a straggler stretches one chunk and not all of a batch.
    results.sort(key=lambda each: each[0])
    chunks = []
    start = size_bytes = 0
    for at, (_, body, _) in enumerate(results):
        if at > start and (at - start == most_items or size_bytes + len(body) > most_bytes):
            chunks.append(_chunk(results[start:at]))
            start, size_bytes = at, 0
        size_bytes += len(body)
    if start < len(results):
        chunks.append(_chunk(results[start:]))
    return chunks


def _chunk(results: list[tuple[int, bytes, bytes | None]]) -> ResultChunk:
    indexes, values, digests = zip(*results, strict=True)
    return ResultChunk(list(indexes), list(values), b"".join(digest for digest in digests if digest is not None))
