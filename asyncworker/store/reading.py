"""Results back out of the store, in index order, from chunks that were written in completion order."""

from __future__ import annotations

import heapq
from array import array
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from asyncworker.store import schema
from asyncworker.store.chunks import KEY_BYTES, keys_from_row, results_from_row
from asyncworker.store.records import KeyChunk, Progress, ResultChunk

__all__ = [
    "Connect",
    "NewPositions",
    "chunks_of",
    "digest_at",
    "moved_results",
    "new_results",
    "positions_of",
    "sorted_results",
]

Connect = Callable[[], AbstractAsyncContextManager[AsyncConnection]]

#: What one query may bring into memory: so many chunks, and so many bytes of bodies unless one alone is larger.
CHUNKS_A_QUERY = 500
BYTES_A_QUERY = 1 << 20
#: Chunks kept while the results of a re-ordered run are picked together.
CHUNKS_KEPT = 64

_table = schema.result_chunk


async def sorted_results(connect: Connect, progress: Progress) -> AsyncIterator[tuple[int, bytes]]:
    """Merge chunks, each sorted by index in itself.

    Memory holds the chunks that overlap at one index: as many as there were stragglers in flight at a time.
    """
    heap: list[tuple[int, bytes]] = []
    async for first_index, chunk in _chunks_by_first_index(connect, progress.run_id):
        # No chunk to come begins lower than this one, so all below its beginning is final.
        while heap and heap[0][0] < first_index:
            yield heapq.heappop(heap)
        for pair in zip(chunk.indexes, chunk.values, strict=True):
            heapq.heappush(heap, pair)
    while heap:
        yield heapq.heappop(heap)


async def _chunks_by_first_index(connect: Connect, run_id: str) -> AsyncIterator[tuple[int, ResultChunk]]:
    order = _table.c.first_index, _table.c.chunk
    after = (-1, -1)
    while True:
        ahead = (
            select(_table.c.first_index, _table.c.chunk, _table.c.body_bytes)
            .where(_table.c.run_id == run_id, tuple_(*order) > after)
            .order_by(*order)
            .limit(CHUNKS_A_QUERY)
        )
        async with connect() as connection:
            found = [(row.first_index, row.chunk, row.body_bytes) for row in await connection.execute(ahead)]
        if not found:
            return
        after = found[-1][:2]
        while found:
            group = [found.pop(0)]
            size_bytes = group[0][2]
            while found and size_bytes + found[0][2] <= BYTES_A_QUERY:
                group.append(found.pop(0))
                size_bytes += group[-1][2]
            chunks = await chunks_of(connect, run_id, [number for _, number, _ in group])
            for first_index, number, _ in group:
                # A run that starts afresh while it is read takes its chunks away.
                if number in chunks:
                    yield first_index, chunks.pop(number)


async def new_results(connect: Connect, run_id: str, after: int) -> list[tuple[int, ResultChunk]]:
    """Return chunks in the order in which they were written, with their numbers; a bounded part of those there are.

    Args:
        connect: Opens a connection.
        run_id: The run.
        after: Number of the last chunk that is known; -1: none is.
    """
    ahead = (
        select(_table.c.chunk, _table.c.body_bytes)
        .where(_table.c.run_id == run_id, _table.c.chunk > after)
        .order_by(_table.c.chunk)
        .limit(CHUNKS_A_QUERY)
    )
    async with connect() as connection:
        found = [(row.chunk, row.body_bytes) for row in await connection.execute(ahead)]
    wanted: list[int] = []
    size_bytes = 0
    for number, body_bytes in found:
        size_bytes += body_bytes
        if wanted and size_bytes > BYTES_A_QUERY:
            break
        wanted.append(number)
    chunks = await chunks_of(connect, run_id, wanted) if wanted else {}
    # A run that starts afresh while it is read takes its chunks away.
    return [(number, chunks[number]) for number in wanted if number in chunks]


async def chunks_of(connect: Connect, run_id: str, numbers: list[int]) -> dict[int, ResultChunk]:
    """Return chunks by their number; those that are there."""
    query = select(_table).where(_table.c.run_id == run_id, _table.c.chunk.in_(numbers))
    async with connect() as connection:
        rows = (await connection.execute(query)).all()
    return {row.chunk: results_from_row(row) for row in rows}


async def moved_results(connect: Connect, progress: Progress) -> AsyncIterator[tuple[int, bytes]]:
    """Put the results of a keyed run that was resumed where the last attempt saw their keys.

    Holds some 150 bytes an item, and a bounded number of chunks; of a source in random order it reads many a time.
    """
    positions = await positions_of(connect, progress)
    places: list[tuple[int, int, int]] = []
    async for number, chunk in _chunks_by_number(connect, progress.run_id):
        for offset in range(len(chunk.indexes)):
            index = positions.get(digest_at(chunk, offset))
            if index is not None:
                places.append((index, number, offset))
    positions.clear()
    places.sort()
    numbers = array("q", [number for _, number, _ in places])
    kept: OrderedDict[int, ResultChunk] = OrderedDict()
    for at, (index, number, offset) in enumerate(places):
        if number not in kept:
            wanted = dict.fromkeys(numbers[at : at + 1000])
            missing = [each for each in wanted if each not in kept][: CHUNKS_KEPT // 2]
            kept.update(await chunks_of(connect, progress.run_id, missing))
            while len(kept) > CHUNKS_KEPT:
                kept.popitem(last=False)
        kept.move_to_end(number)
        yield index, kept[number].values[offset]


async def positions_of(connect: Connect, progress: Progress) -> dict[bytes, int]:
    """Return where the items of a keyed run stand, by digest: as the last attempt met them.

    Those that it did not get to come after them, in the order of before.
    """
    positions: dict[bytes, int] = {}
    earlier: dict[bytes, int] = {}
    async for _, attempt, chunk in _key_chunks(connect, progress.run_id, -1):
        found = positions if attempt == progress.attempt else earlier
        found.update(_places_in(chunk))
    left = sorted((index, digest) for digest, index in earlier.items() if digest not in positions)
    first = max(positions.values(), default=-1) + 1
    positions.update((digest, place) for place, (_, digest) in enumerate(left, first))
    return positions


class NewPositions:
    """Follows where the current attempt of a keyed run meets its items.

    Attributes:
        known: Index by digest.
    """

    def __init__(self, connect: Connect, run_id: str) -> None:
        self.known: dict[bytes, int] = {}
        self._connect = connect
        self._run_id = run_id
        self._attempt = 0
        self._last = -1

    async def update(self, attempt: int) -> None:
        """Read what is new."""
        if attempt != self._attempt:
            self.known.clear()
            self._attempt, self._last = attempt, -1
        async for number, found, chunk in _key_chunks(self._connect, self._run_id, self._last):
            self._last = number
            if found == attempt:
                self.known.update(_places_in(chunk))


async def _key_chunks(connect: Connect, run_id: str, after: int) -> AsyncIterator[tuple[int, int, KeyChunk]]:
    table = schema.key_chunk
    query = select(table).where(table.c.run_id == run_id, table.c.chunk > after).order_by(table.c.chunk)
    async with connect() as connection:
        async for row in await connection.stream(query):
            yield row.chunk, row.attempt, keys_from_row(row)


def _places_in(chunk: KeyChunk) -> Iterator[tuple[bytes, int]]:
    for offset, index in enumerate(chunk.indexes):
        yield chunk.keys[offset * KEY_BYTES : (offset + 1) * KEY_BYTES], index


def digest_at(chunk: ResultChunk, offset: int) -> bytes:
    """Return the digest of the key of one of a chunk's results."""
    return chunk.keys[offset * KEY_BYTES : (offset + 1) * KEY_BYTES]


async def _chunks_by_number(connect: Connect, run_id: str) -> AsyncIterator[tuple[int, ResultChunk]]:
    query = select(_table.c.chunk).where(_table.c.run_id == run_id).order_by(_table.c.chunk)
    async with connect() as connection:
        numbers = list(await connection.scalars(query))
    for start in range(0, len(numbers), CHUNKS_KEPT):
        chunks = await chunks_of(connect, run_id, numbers[start : start + CHUNKS_KEPT])
        for number in sorted(chunks):
            yield number, chunks[number]
