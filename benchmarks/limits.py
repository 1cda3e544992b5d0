"""What a limit costs: acquire and release a second, ``python benchmarks/limits.py --help``.

In one process, against ``asyncio.Semaphore`` and aiolimiter; on one Redis, against the lock of redis-py, which is the
nearest that it has. Each competitor is asked by one task in turn, with a permit always free; by a hundred tasks for
ten permits; and by a hundred tasks for ten permits of each of 10, 1,000 and 100,000 keys, which have their turns.
``asyncio.Semaphore`` and aiolimiter know no keys, and get a dictionary of objects that is never emptied; redis-py's
lock is asked a tenth as often. The work done under a permit is nothing; that no more than ten have one is checked.
The competitors take turns; the table shows medians.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs by its file name

from redis.asyncio import Redis
from rich.console import Console

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.limits import RateLimit, Semaphore, limit, limits, use_limits_url
from asyncworker.resources import lifetimes
from benchmarks.report import Measured, print_table, write_json

PERMITS = 10
TASKS = 100
KEYS = (10, 1_000, 100_000)

console = Console() if sys.stdout.isatty() else Console(width=140)

#: Made once a round, on its loop; returns what makes one use of a key.
Maker = Callable[[str], AbstractAsyncContextManager[Callable[[str], AbstractAsyncContextManager[Any]]]]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uses", type=int, metavar="N", help="uses a round, in a process (100000; quick: 20000)")
    parser.add_argument("--rounds", type=int, help="how often each has its turn (5; quick: 3)")
    parser.add_argument("--keys", type=int, action="append", metavar="N", help="how many keys (10, 1000, 100000)")
    parser.add_argument("--quick", action="store_true", help="fewer uses and rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    given = parser.parse_args()
    given.uses = given.uses or (20_000 if given.quick else 100_000)
    given.rounds = given.rounds or (3 if given.quick else 5)
    given.keys = given.keys or list(KEYS)
    return given


@contextlib.asynccontextmanager
async def asyncio_semaphore(url: str) -> AsyncIterator[Any]:
    """The standard library's."""
    semaphores: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(PERMITS))
    yield semaphores.__getitem__


@contextlib.asynccontextmanager
async def ours_local(url: str) -> AsyncIterator[Any]:
    """A semaphore of this process."""
    Semaphore("local", PERMITS)
    yield lambda key: limit("local", key=key)


@contextlib.asynccontextmanager
async def ours_local_rate(url: str) -> AsyncIterator[Any]:
    """A rate of this process that is never reached."""
    RateLimit("rate", 1e9, burst=10**9)
    yield lambda key: limit("rate", key=key)


@contextlib.asynccontextmanager
async def aiolimiter(url: str) -> AsyncIterator[Any]:
    """Its leaky bucket, which is never full."""
    from aiolimiter import AsyncLimiter

    buckets: dict[str, AsyncLimiter] = defaultdict(lambda: AsyncLimiter(1e9, 1))
    yield buckets.__getitem__


@contextlib.asynccontextmanager
async def ours_cluster(url: str) -> AsyncIterator[Any]:
    """A semaphore on Redis."""
    use_limits_url(url)
    Semaphore("cluster", PERMITS, cluster=True)
    yield lambda key: limit("cluster", key=key)
    await lifetimes().close()


@contextlib.asynccontextmanager
async def redis_lock(url: str) -> AsyncIterator[Any]:
    """Ten locks, each task with one of them: redis-py has no semaphore."""
    number = 0
    async with Redis.from_url(url) as client:

        def one(key: str) -> Any:
            nonlocal number
            number += 1
            return client.lock(f"lock-{key}-{number % PERMITS}", timeout=30, sleep=0.001)

        yield one


IN_PROCESS: dict[str, Maker] = {
    "asyncio.Semaphore": asyncio_semaphore,
    "asyncworker, Semaphore": ours_local,
    "asyncworker, RateLimit": ours_local_rate,
    "aiolimiter": aiolimiter,
}
ON_REDIS: dict[str, Maker] = {
    "asyncworker, Semaphore(cluster=True)": ours_cluster,
    "redis-py Lock, ten of them": redis_lock,
}
#: Those that limit how many at once.
COUNTED = {"asyncio.Semaphore", "asyncworker, Semaphore", *ON_REDIS}
#: Given a tenth of the uses.
SLOW = {"redis-py Lock, ten of them"}


async def measure(name: str, make: Maker, url: str, uses: int, tasks: int, keys: int) -> float:
    """Return uses a second; checks that no more than the permits of a key were in use at once."""
    limits.clear()
    names = [str(number) if keys > 1 else "" for number in range(keys)]
    now = [0] * keys
    most, left = 0, uses

    async with make(url) as use:

        async def user() -> None:
            nonlocal most, left
            while left > 0:
                left -= 1
                key = left % keys
                async with use(names[key]):
                    now[key] += 1
                    most = max(most, now[key])
                    if tasks > 1:
                        await asyncio.sleep(0)
                    now[key] -= 1

        begun = time.perf_counter()
        await asyncio.gather(*[user() for _ in range(tasks)])
        took_s = time.perf_counter() - begun
    assert left == 0
    if name in COUNTED:
        assert most <= PERMITS
        assert tasks == 1 or keys > 1 or most == PERMITS, most
    return uses / took_s


def main() -> None:
    """Measure and print."""
    given = arguments()
    everything: list[Measured] = []
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as server:
        for title, competitors, divisor, reference in (
            ("in one process", IN_PROCESS, 1, "asyncworker, Semaphore"),
            ("on one Redis", ON_REDIS, 20, "asyncworker, Semaphore(cluster=True)"),
        ):
            for tasks, keys in ((1, 1), (TASKS, 1), *((TASKS, keys) for keys in given.keys)):
                how = "one task, a permit free" if tasks == 1 else f"{tasks} tasks, {PERMITS} permits"
                how = f"{tasks} tasks, {keys:,} keys" if keys > 1 else how
                # Each key is used, unless time is short.
                most = max(given.uses // divisor, 0 if given.quick else keys)
                uses = {name: most // (10 if name in SLOW else 1) for name in competitors}
                rows = {
                    name: Measured(f"{name}; {how}", "uses_per_s", "acquire + release/s", f"{uses[name]:,} uses")
                    for name in competitors
                }
                for _ in range(given.rounds):
                    for name, make in competitors.items():
                        try:
                            result = asyncio.run(measure(name, make, server.redis_url, uses[name], tasks, keys))
                            rows[name].values.append(result)
                        except ImportError as exc:
                            rows[name].missing = f"{exc}; pip install -e '.[bench]'"
                print_table(f"limits, {title}, {how}", list(rows.values()), f"{reference}; {how}", console)
                everything += rows.values()
    if given.json:
        write_json(given.json, everything)


if __name__ == "__main__":
    main()
