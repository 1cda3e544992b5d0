"""What a fan-out costs an item, inside one process: ``python benchmarks/iterate.py --help``.

Every competitor runs the same coroutine for every item, 100 at once: one that does nothing, and one that suspends once.
The bare pullers are the limit: no results, no failures, no progress, no retries. Ours is measured in memory, and with
its checkpoint and all results in an SQLite store, which is opened and closed within the time. The competitors take
turns; the table shows medians.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs by its file name

from rich.console import Console

from asyncworker.iterate import execute_run, make_options, source_of
from asyncworker.store import open_store
from benchmarks.report import Measured, print_table, write_json

CONCURRENCY = 100
OURS = "asyncworker, checkpoint and results stored"

#: In a pipe too, a line of the table is a line.
console = Console() if sys.stdout.isatty() else Console(width=140)

Item = Callable[[dict[str, Any]], Awaitable[Any]]
Competitor = Callable[[Item, int, Path], Awaitable[None]]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, metavar="N", help="items a round (100000; quick: 20000)")
    parser.add_argument("--rounds", type=int, help="how often each has its turn (5; quick: 3)")
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    given = parser.parse_args()
    given.items = given.items or (20_000 if given.quick else 100_000)
    given.rounds = given.rounds or (3 if given.quick else 5)
    return given


async def gather_and_semaphore(item: Item, count: int, folder: Path) -> None:
    """What one writes by hand."""
    semaphore = asyncio.Semaphore(CONCURRENCY)

    async def limited(number: int) -> Any:
        async with semaphore:
            return await item({"number": number})

    await asyncio.gather(*(limited(number) for number in range(count)))


async def task_an_item(item: Item, count: int, folder: Path) -> None:
    """A task an item, made only when one may run."""
    semaphore = asyncio.Semaphore(CONCURRENCY)
    running = set()
    for number in range(count):
        await semaphore.acquire()
        task = asyncio.ensure_future(item({"number": number}))
        running.add(task)
        task.add_done_callback(lambda done: (running.discard(done), semaphore.release()))
    await asyncio.gather(*running)


async def bare_pullers(item: Item, count: int, folder: Path) -> None:
    """The limit: loops over one iterator."""
    rows = ({"number": number} for number in range(count))

    async def pull() -> None:
        for row in rows:
            await item(row)

    await asyncio.gather(*(pull() for _ in range(CONCURRENCY)))


async def ours_in_memory(item: Item, count: int, folder: Path) -> None:
    """Without a store."""
    options = make_options(concurrency=CONCURRENCY, results="none")
    outcome = await execute_run(item, source_of({"number": range(count)}), options)
    assert outcome.progress.done == count


async def ours_stored(item: Item, count: int, folder: Path) -> None:
    """With everything on; the store is opened and closed within the time measured."""
    store = await open_store(f"sqlite+aiosqlite:///{folder / 'store.sqlite'}")
    try:
        options = make_options(concurrency=CONCURRENCY)
        outcome = await execute_run(item, source_of({"number": range(count)}), options, store=store, run_id="run")
        assert (await store.progress(outcome.progress.run_id)).done == count
    finally:
        await store.close()


COMPETITORS: dict[str, Competitor] = {
    "gather + semaphore": gather_and_semaphore,
    "a task an item, semaphore": task_an_item,
    "bare pullers, nothing kept": bare_pullers,
    "asyncworker, in memory": ours_in_memory,
    OURS: ours_stored,
}


def measure(competitor: Competitor, suspends: bool, count: int) -> float:
    """Items a second; checks that every item was run."""
    ran = 0

    async def item(row: dict[str, Any]) -> int:
        nonlocal ran
        ran += 1
        if suspends:
            await asyncio.sleep(0)
        return int(row["number"])

    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        asyncio.run(competitor(item, count, Path(folder)))
        elapsed_s = time.perf_counter() - began
    if ran != count:
        raise SystemExit(f"{competitor.__name__} ran {ran} of {count} items")
    return count / elapsed_s


def main() -> None:
    """Measure, print, and write."""
    given = arguments()
    everything: list[Measured] = []
    for label, suspends in (("no-op item", False), ("item with one sleep(0)", True)):
        rows = {
            name: Measured(f"{name}, {label}", "items_per_s", "items/s", f"{given.items:,} items")
            for name in COMPETITORS
        }
        for _ in range(given.rounds):
            for name, competitor in COMPETITORS.items():
                rows[name].values.append(measure(competitor, suspends, given.items))
        print_table(f"iterate, {label}, {CONCURRENCY} at once", list(rows.values()), rows[OURS].name, console)
        for row in rows.values():
            console.print(f"{row.name}: {1e6 / row.median:.2f} us an item", highlight=False)
        everything += rows.values()
    if given.json:
        write_json(given.json, everything)


if __name__ == "__main__":
    main()
