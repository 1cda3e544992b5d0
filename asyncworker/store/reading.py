"""Results back out of the store, in index order, from chunks that were written in completion order."""

from __future__ import annotations

import heapq
from array import array
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from asyncworker.store import schema
from asyncworker.store.chunks import KEY_BYTES, keys_from_row, results_from_row
from asyncworker.store.records import Progress, ResultChunk

__all__ = ["Connect", "moved_results", "new_results", "sorted_results"]

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
            chunks = await _load(connect, run_id, [number for _, number, _ in group])
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
    chunks = await _load(connect, run_id, wanted) if wanted else {}
    # A run that starts afresh while it is read takes its chunks away.
    return [(number, chunks[number]) for number in wanted if number in chunks]


async def _load(connect: Connect, run_id: str, numbers: list[int]) -> dict[int, ResultChunk]:
    query = select(_table).where(_table.c.run_id == run_id, _table.c.chunk.in_(numbers))
    async with connect() as connection:
        rows = (await connection.execute(query)).all()
    return {row.chunk: results_from_row(row) for row in rows}


async def moved_results(connect: Connect, progress: Progress) -> AsyncIterator[tuple[int, bytes]]:
    """Put the results of a keyed run that was resumed where the last attempt saw their keys.

    A key that the last attempt of an ended run did not see is not in the source any more; its result is left out. Holds
    some 150 bytes an item, and a bounded number of chunks; a source in random order is read from the database often.
    """
    positions = await _positions(connect, progress)
    places: list[tuple[int, int, int]] = []
    async for number, chunk in _chunks_by_number(connect, progress.run_id):
        for offset in range(len(chunk.indexes)):
            index = positions.get(chunk.keys[offset * KEY_BYTES : (offset + 1) * KEY_BYTES])
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
            kept.update(await _load(connect, progress.run_id, missing))
            while len(kept) > CHUNKS_KEPT:
                kept.popitem(last=False)
        kept.move_to_end(number)
        yield index, kept[number].values[offset]


async def _positions(connect: Connect, progress: Progress) -> dict[bytes, int]:
    table = schema.key_chunk
    query = select(table).where(table.c.run_id == progress.run_id).order_by(table.c.chunk)
    if progress.complete:
        query = query.where(table.c.attempt == progress.attempt)
    positions: dict[bytes, int] = {}
    async with connect() as connection:
        async for row in await connection.stream(query):
            chunk = keys_from_row(row)
            for offset, index in enumerate(chunk.indexes):
                positions[chunk.keys[offset * KEY_BYTES : (offset + 1) * KEY_BYTES]] = index
    return positions


async def _chunks_by_number(connect: Connect, run_id: str) -> AsyncIterator[tuple[int, ResultChunk]]:
    query = select(_table.c.chunk).where(_table.c.run_id == run_id).order_by(_table.c.chunk)
    async with connect() as connection:
        numbers = list(await connection.scalars(query))
    for start in range(0, len(numbers), CHUNKS_KEPT):
        chunks = await _load(connect, run_id, numbers[start : start + CHUNKS_KEPT])
        for number in sorted(chunks):
            yield number, chunks[number]
