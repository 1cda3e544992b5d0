"""What a fan-out costs an item: ``python benchmarks/iterate.py --help``.

In one process, every competitor runs the same coroutine for every item, 100 at once: one that does nothing, and one
that suspends once. The bare pullers are the limit: no results, no failures, no progress, no retries. Ours is measured
in memory, and with its checkpoint and all results in an SQLite store, which is opened and closed within the time. The
competitors take turns; the tables show medians. Microseconds an item are the process's CPU time, its threads included,
so that what else the machine does counts less.

A second table goes through real workers and a private Valkey, from sending to the last result: one fan-out of ours, and
a message an item with ours, a Celery group, taskiq and arq, which are given fewer items. Then memory by the number of
items, each in a process of its own, and the transactions of a run of 17,000 items. At the end it is said whether what
the README promises of these figures holds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs by its file name

from rich.console import Console

from asyncworker.iterate import execute_run, make_options, source_of
from asyncworker.store import open_store
from benchmarks.iterate_memory import count_transactions, highest_rss_mb
from benchmarks.iterate_workers import FAN_OUT, NOT_INSTALLED, running_workers
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
    parser.add_argument("--messages", type=int, metavar="N", help="items where each is a message (3000; quick: 300)")
    parser.add_argument("--rounds", type=int, help="how often each has its turn (5; quick: 2)")
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    given = parser.parse_args()
    given.items = given.items or (20_000 if given.quick else 100_000)
    given.messages = given.messages or (300 if given.quick else 3_000)
    given.rounds = given.rounds or (2 if given.quick else 5)
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


async def by_aiometer(item: Item, count: int, folder: Path) -> None:
    """The library for it; it keeps an asyncio task an item."""
    import aiometer

    jobs = [partial(item, {"number": number}) for number in range(count)]
    await aiometer.run_all(jobs, max_at_once=CONCURRENCY)


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


GATHER = "gather + semaphore"
BARE = "bare pullers, nothing kept"
AIOMETER = "aiometer"

COMPETITORS: dict[str, Competitor] = {
    GATHER: gather_and_semaphore,
    AIOMETER: by_aiometer,
    "a task an item, semaphore": task_an_item,
    BARE: bare_pullers,
    "asyncworker, in memory": ours_in_memory,
    OURS: ours_stored,
}


def measure(competitor: Competitor, suspends: bool, count: int) -> tuple[float, float]:
    """Items a second, and microseconds of CPU an item; checks that every item was run."""
    ran = 0

    async def item(row: dict[str, Any]) -> int:
        nonlocal ran
        ran += 1
        if suspends:
            await asyncio.sleep(0)
        return int(row["number"])

    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        began, cpu_began = time.perf_counter(), time.process_time()
        asyncio.run(competitor(item, count, Path(folder)))
        elapsed_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    if ran != count:
        raise SystemExit(f"{competitor.__name__} ran {ran} of {count} items")
    return count / elapsed_s, 1e6 * cpu_s / count


def one_process(given: argparse.Namespace) -> tuple[list[Measured], list[str]]:
    """Measure inside one process; returns the rows, and what the README promises of them."""
    everything: list[Measured] = []
    held: list[str] = []
    for label, suspends in (("no-op item", False), ("item with one sleep(0)", True)):
        rows = {
            name: Measured(f"{name}, {label}", "items_per_s", "items/s", f"{given.items:,} items")
            for name in COMPETITORS
        }
        if find_spec("aiometer") is None:
            rows[AIOMETER].missing = NOT_INSTALLED
        cpu_us: dict[str, list[float]] = {name: [] for name in COMPETITORS}
        for _ in range(given.rounds):
            for name, competitor in COMPETITORS.items():
                if not rows[name].missing:
                    items_per_s, us = measure(competitor, suspends, given.items)
                    rows[name].values.append(items_per_s)
                    cpu_us[name].append(us)
        print_table(f"iterate, {label}, {CONCURRENCY} at once", list(rows.values()), rows[OURS].name, console)
        medians = {name: statistics.median(values) for name, values in cpu_us.items() if values}
        for name, us in medians.items():
            console.print(f"{name}, {label}: {us:.2f} us of CPU an item", highlight=False)
        ours = medians[OURS]
        held.append(
            promise(f"{label}: gather + semaphore takes so many times our CPU", medians[GATHER] / ours, at_least=2)
        )
        held.append(promise(f"{label}: us of CPU more an item than bare pullers", ours - medians[BARE], at_most=5))
        everything += rows.values()
    return everything, held


def through_workers(given: argparse.Namespace) -> tuple[list[Measured], list[str]]:
    """Measure from sending to the last result."""
    with tempfile.TemporaryDirectory() as folder, running_workers(Path(folder)) as runs:
        rows = {}
        for name, run in runs.items():
            count = given.items if name == FAN_OUT else given.messages
            rows[name] = Measured(name, "items_per_s", "items/s", f"{count:,} items")
            rows[name].missing = run if isinstance(run, str) else ""
        for _ in range(given.rounds if given.quick is False else 1):
            for name, run in runs.items():
                if not isinstance(run, str):
                    count = given.items if name == FAN_OUT else given.messages
                    began = time.perf_counter()
                    run(count)
                    rows[name].values.append(count / (time.perf_counter() - began))
    print_table("through a worker, no-op items, results stored", list(rows.values()), FAN_OUT, console)
    others = {name: row.median for name, row in rows.items() if row.values and name != FAN_OUT}
    held = [
        promise(f"times the items/s of {name}", rows[FAN_OUT].median / other, at_least=50)
        for name, other in others.items()
    ]
    return list(rows.values()), held


def memory_and_transactions(given: argparse.Namespace) -> list[str]:
    """Measure what a long run takes."""
    held = []
    counts = (10_000, 100_000, 1_000_000)
    for results in ("none", "stored"):
        most = counts[:2] if given.quick and results == "stored" else counts
        found = {count: highest_rss_mb(count, results) for count in most}
        told = ", ".join(f"{count:,} items {size:.1f} MB" for count, size in found.items())
        console.print(f"highest resident size, results={results!r}: {told}", highlight=False)
        grown = found[most[-1]] - found[most[0]]
        held.append(promise(f"results={results!r}: MB more at {most[-1]:,} items than at 10,000", grown, at_most=20))
    commits, seconds = count_transactions(17_000)
    console.print(f"17,000 items of 10 ms: {commits} transactions in {seconds:.1f} s", highlight=False)
    held.append(promise("transactions for 17,000 items", commits, at_most=seconds * 4 + 5))
    return held


def promise(what: str, value: float, *, at_least: float = float("-inf"), at_most: float = float("inf")) -> str:
    """Say whether a figure is what it should be."""
    wanted = f"at least {at_least:g}" if at_most == float("inf") else f"at most {at_most:.4g}"
    return f"{'holds ' if at_least <= value <= at_most else 'MISSED'} {what}: {value:,.1f} ({wanted})"


def main() -> None:
    """Measure, print, and write."""
    given = arguments()
    rows, held = one_process(given)
    more, also = through_workers(given)
    held += also + memory_and_transactions(given)
    for line in held:
        console.print(line, highlight=False, markup=False)
    if given.json:
        write_json(given.json, rows + more)


if __name__ == "__main__":
    main()
