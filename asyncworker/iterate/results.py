"""A run's results, read back in pages: by index, or in the order in which they were finished, while the run runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, Literal

from asyncworker.clock import SYSTEM_CLOCK, Clock
from asyncworker.errors import RunError, RunExpired, RunNotFound, SettingsError
from asyncworker.store import Progress
from asyncworker.store.large import brought_back

if TYPE_CHECKING:
    from asyncworker.store import Store

__all__ = ["Order", "Page", "pages_of"]

Order = Literal["index", "completion"]
Page = list[tuple[int, Any]]
Decode = Callable[[bytes], Any]

#: The most in a page, unless one result alone is larger; a page crosses from one thread to another.
PAGE_ITEMS = 200
PAGE_BYTES = 1 << 20
#: How often a run that goes on is looked at: at first, and where nothing is new.
FIRST_LOOK_S = 0.05
LONGEST_LOOK_S = 1.0


def pages_of(
    store: Store, run_id: str, order: Order, decode: Decode, clock: Clock = SYSTEM_CLOCK
) -> AsyncGenerator[Page, None]:
    """Read a run's results, ``(index, value)``, in bounded memory.

    Args:
        store: Where they are.
        run_id: The run.
        order: ``"index"``: those that are stored now, in the order of the source. ``"completion"``: each as it is
            stored, from the first on, until the run has ended; a run that has not begun is waited for.
        decode: The reverse of what encoded them.
        clock: Time.

    Raises:
        SettingsError: There is no such order.
    """
    if order == "index":
        return _by_index(store, run_id, decode)
    if order == "completion":
        return _by_completion(store, run_id, decode, clock)
    raise SettingsError(f"order is {order!r}: expected 'index' or 'completion'")


async def _by_index(store: Store, run_id: str, decode: Decode) -> AsyncGenerator[Page, None]:
    page, size_bytes = [], 0
    async for index, (value_bytes, value) in store.results(run_id, lambda body: (len(body), decode(body))):
        page.append((index, value))
        size_bytes += value_bytes
        if len(page) == PAGE_ITEMS or size_bytes > PAGE_BYTES:
            yield page
            page, size_bytes = [], 0
    if page:
        yield page


async def _by_completion(store: Store, run_id: str, decode: Decode, clock: Clock) -> AsyncGenerator[Page, None]:
    from asyncworker.store import Partitions

    began = await _begun(store, run_id, clock)
    # The run itself, or its partitions; the number of the last chunk that was read of each.
    last_chunks: dict[str, int] = {run_id: -1}
    wait_s = FIRST_LOOK_S
    while True:
        # In this order: of a run that has ended here, all is there to be read below.
        whole = await store.progress(run_id)
        if whole.started_at != began.started_at:
            raise RunError(f"run {run_id} was started afresh while its results were read")
        parts = await Partitions(store).look(run_id)
        last_chunks |= {part.progress.run_id: last_chunks.get(part.progress.run_id, -1) for part in parts}
        found = False
        for part_id in last_chunks:
            async for page in _new_pages(store, part_id, last_chunks, decode):
                found = True
                yield page
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


async def _new_pages(
    store: Store, run_id: str, last_chunks: dict[str, int], decode: Decode
) -> AsyncGenerator[Page, None]:
    from asyncworker.store.reading import new_results

    while chunks := await new_results(store.reading, run_id, last_chunks[run_id]):
        for number, chunk in chunks:
            page, size_bytes = [], 0
            for index, value in zip(chunk.indexes, chunk.values, strict=True):
                body = await brought_back(value, store.payloads)
                page.append((index, decode(body)))
                size_bytes += len(body)
                if len(page) == PAGE_ITEMS or size_bytes > PAGE_BYTES:
                    yield page
                    page, size_bytes = [], 0
            if page:
                yield page
            last_chunks[run_id] = number
