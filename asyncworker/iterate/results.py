"""A run's results, read back in pages: by index, or in the order in which they were finished, while the run runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from asyncworker.clock import SYSTEM_CLOCK, Clock
from asyncworker.errors import PayloadError, RunError, RunExpired, RunNotFound, SettingsError
from asyncworker.store import Progress, ResultChunk
from asyncworker.store.large import brought_back

if TYPE_CHECKING:
    from asyncworker.store import Store

__all__ = ["Order", "Page", "Unreadable", "pages_of"]

Order = Literal["index", "completion"]
Unreadable = Literal["raise", "return"]
Page = list[tuple[int, Any]]
Decode = Callable[[bytes], Any]

#: The most in a page, unless one result alone is larger; a page crosses from one thread to another.
PAGE_ITEMS = 200
PAGE_BYTES = 1 << 20
#: How often a run that goes on is looked at: at first, and where nothing is new.
FIRST_LOOK_S = 0.05
LONGEST_LOOK_S = 1.0


def pages_of(
    store: Store,
    run_id: str,
    order: Order,
    decode: Decode,
    clock: Clock = SYSTEM_CLOCK,
    *,
    unreadable: Unreadable = "raise",
) -> AsyncGenerator[Page, None]:
    """Read a run's results, ``(index, value)``, in bounded memory.

    Args:
        store: Where they are.
        run_id: The run.
        order: ``"index"``: those that are stored now, in the order of the source. ``"completion"``: each as it is
            stored, from the first on, until the run has ended; a run that has not begun is waited for.
        decode: The reverse of what encoded them.
        clock: Time.
        unreadable: A result that cannot be read back: ``"raise"`` once all others were given, or ``"return"`` the error
            in its place.

    Raises:
        SettingsError: There is no such order, or no such way with what cannot be read.
        PayloadError: Results could not be read back; names the first.
    """
    if unreadable not in ("raise", "return"):
        raise SettingsError(f"unreadable is {unreadable!r}: expected 'raise' or 'return'")
    if order == "index":
        return _pages(store, run_id, store.stored_results(run_id), decode, unreadable)
    if order == "completion":
        return _pages(store, run_id, _by_completion(store, run_id, clock), decode, unreadable)
    raise SettingsError(f"order is {order!r}: expected 'index' or 'completion'")


async def _pages(
    store: Store,
    run_id: str,
    stored: AsyncIterator[tuple[int, bytes] | None],
    decode: Decode,
    unreadable: Unreadable,
) -> AsyncGenerator[Page, None]:
    """Decode results, and put them together in pages; ``None`` among them ends a page."""
    page: Page = []
    size_bytes = 0
    failed: list[PayloadError] = []
    async for each in stored:
        if each is not None:
            index, value = each
            try:
                body = await brought_back(value, store.payloads)
                size_bytes += len(body)
                page.append((index, decode(body)))
            except Exception as exc:
                error = PayloadError(f"run {run_id}: the result of item {index} cannot be read: {exc}")
                error.__cause__ = exc
                failed.append(error)
                if unreadable == "return":
                    page.append((index, error))
        if page and (each is None or len(page) == PAGE_ITEMS or size_bytes > PAGE_BYTES):
            yield page
            page, size_bytes = [], 0
    if page:
        yield page
    if failed and unreadable == "raise":
        more = f"; and those of {len(failed) - 1:,} others" if len(failed) > 1 else ""
        raise PayloadError(f"{failed[0]}{more}") from failed[0]


async def _by_completion(store: Store, run_id: str, clock: Clock) -> AsyncGenerator[tuple[int, bytes] | None, None]:
    from asyncworker.store import Partitions

    began = await _begun(store, run_id, clock)
    keyed = await store.is_keyed(run_id)
    # The run itself, or its partitions.
    readers = {run_id: _Reader(store, run_id, keyed)}
    wait_s = FIRST_LOOK_S
    while True:
        # In this order: of a run that has ended here, all is there to be read below.
        whole = await store.progress(run_id)
        if whole.started_at != began.started_at:
            raise RunError(f"run {run_id} was started afresh while its results were read")
        progress = {run_id: whole} | {
            part.progress.run_id: part.progress for part in await Partitions(store).look(run_id)
        }
        found = False
        for part_id, part in progress.items():
            reader = readers.setdefault(part_id, _Reader(store, part_id, keyed))
            async for pair in reader.new(part, last=whole.ended):
                found = True
                yield pair
        yield None
        if whole.ended:
            return
        wait_s = FIRST_LOOK_S if found else min(LONGEST_LOOK_S, wait_s * 1.5)
        await clock.sleep(wait_s)


async def _begun(store: Store, run_id: str, clock: Clock) -> Progress:
    wait_s = FIRST_LOOK_S
    while True:
        try:
            return await store.progress(run_id)
        except RunExpired:
            raise
        except RunNotFound:
            await clock.sleep(wait_s)
            wait_s = min(LONGEST_LOOK_S, wait_s * 1.5)


class _Reader:
    """Reads one run's results in the order in which they were stored, each once.

    Of a keyed run that was continued, what an earlier attempt finished is given once the current one has met it, which
    is when its index is known; or when the run has ended.
    """

    def __init__(self, store: Store, run_id: str, keyed: bool) -> None:
        from asyncworker.store.reading import NewPositions

        self._store = store
        self._run_id = run_id
        self._keyed = keyed
        self._last = -1
        self._positions = NewPositions(store.reading, run_id)
        #: Not met yet: chunk and place in it, by digest.
        self._held: dict[bytes, tuple[int, int]] = {}

    async def new(self, progress: Progress, *, last: bool) -> AsyncGenerator[tuple[int, bytes], None]:
        from asyncworker.store.reading import new_results, positions_of

        moved = self._keyed and progress.attempt > 1
        while chunks := await new_results(self._store.reading, self._run_id, self._last):
            if moved:
                # After the results: these are written together.
                await self._positions.update(progress.attempt)
            for number, chunk in chunks:
                for pair in self._places(number, chunk, moved):
                    yield pair
                self._last = number
        if self._held:
            known = self._positions.known
            if last:
                known = await positions_of(self._store.reading, progress)
            else:
                await self._positions.update(progress.attempt)
            async for pair in self._met(known):
                yield pair

    def _places(self, number: int, chunk: ResultChunk, moved: bool) -> Iterator[tuple[int, bytes]]:
        from asyncworker.store.reading import digest_at

        for offset, (index, value) in enumerate(zip(chunk.indexes, chunk.values, strict=True)):
            if not moved:
                yield index, value
                continue
            digest = digest_at(chunk, offset)
            if digest in self._positions.known:
                yield self._positions.known[digest], value
            else:
                self._held[digest] = number, offset

    async def _met(self, known: dict[bytes, int]) -> AsyncGenerator[tuple[int, bytes], None]:
        from asyncworker.store.reading import chunks_of

        by_chunk: dict[int, list[tuple[int, bytes]]] = {}
        for digest, (number, offset) in self._held.items():
            if digest in known:
                by_chunk.setdefault(number, []).append((offset, digest))
        for number, found in by_chunk.items():
            chunks = await chunks_of(self._store.reading, self._run_id, [number])
            for offset, digest in found:
                del self._held[digest]
                if number in chunks:
                    yield known[digest], chunks[number].values[offset]
