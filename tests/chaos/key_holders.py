"""A process that uses every key of one cluster-wide limit, and counts what it holds outside of the limit.

It enters all keys, holds what it got until each permit was renewed past the end of its first lease and the observer
lets go, and gives it back. Each holder is counted in a Redis that the limit does not know, before it works and until it
has worked. The last line of its output is a :class:`Report`.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections import Counter, deque
from pathlib import Path

import msgspec
from redis.asyncio import Redis

from asyncworker.errors import LimitError
from asyncworker.limits import Permit, Semaphore, limit, use_limits_url
from asyncworker.resources import lifetimes
from asyncworker.settings import load_settings
from asyncworker.worker.garbage import settle_garbage_collection

NAME = "keys"
#: In the observer's Redis: holders by key, the most that any key had, keys that had too many, all holders, and the
#: processes that have renewed all they hold, and are let go.
COUNTS, MOST, EXCESS, INSIDE, RENEWED, LET_GO = "counts", "most", "excess", "inside", "renewed", "let-go"
#: Counts who enters and leaves; KEYS: the first four. ARGV: permits a key, then key and change in turn.
COUNT = """
for at = 2, #ARGV, 2 do
    local now = redis.call('HINCRBY', KEYS[1], ARGV[at], ARGV[at + 1])
    redis.call('INCRBY', KEYS[4], ARGV[at + 1])
    if now > tonumber(redis.call('GET', KEYS[2]) or 0) then redis.call('SET', KEYS[2], now) end
    if now > tonumber(ARGV[1]) or now < 0 then redis.call('RPUSH', KEYS[3], ARGV[at] .. ' has ' .. now) end
end
"""
#: Done in one pass of the loop; more would be a lag of the test's own.
SLICE = 100
TICK_S = 0.01
POLL_S = 0.25


class Plan(msgspec.Struct, frozen=True):
    """What is done.

    Attributes:
        limits_url: The Redis of the limit.
        observed_url: The Redis of the observer.
        keys: How many.
        permits: Of each.
        lease_s: Of each permit.
    """

    limits_url: str
    observed_url: str
    keys: int
    permits: int
    lease_s: float


class Report(msgspec.Struct, frozen=True):
    """What one process has seen.

    Attributes:
        entered: How often it held a key.
        errors: How many uses ended in an error, by its type.
        ticks: How often it looked at the loop.
        lag_s: By how much the loop was late: at most, and in the worst of a hundred looks.
        own_lag_s: The same, without the time in which the process had no core.
    """

    entered: int
    errors: dict[str, int]
    ticks: int
    lag_s: tuple[float, float]
    own_lag_s: tuple[float, float]


class Count:
    """Tells the observer's Redis who enters and leaves: many at once, by one connection."""

    def __init__(self, redis: Redis, permits: int) -> None:
        self._script = redis.register_script(COUNT)
        self._permits = permits
        self._changes: deque[tuple[int, int, asyncio.Future[None]]] = deque()
        self._sending: asyncio.Task[None] | None = None

    async def add(self, key: int, change: int) -> None:
        """Count one holder more or less; returns when it is counted."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changes.append((key, change, future))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        await future

    async def _send(self) -> None:
        while self._changes:
            batch = [self._changes.popleft() for _ in range(min(SLICE, len(self._changes)))]
            flat = [part for key, change, _ in batch for part in (key, change)]
            await self._script([COUNTS, MOST, EXCESS, INSIDE], [self._permits, *flat])
            for _, _, future in batch:
                if not future.done():
                    future.set_result(None)
        self._sending = None


class Lag:
    """How late the loop is, looked at again and again."""

    def __init__(self) -> None:
        self._late_s: list[float] = []
        self._own_s: list[float] = []

    async def watch(self) -> None:
        """Look until cancelled."""
        while True:
            waited_s, began_s = _without_a_core_s(), time.monotonic()
            await asyncio.sleep(TICK_S)
            late_s = max(0.0, time.monotonic() - began_s - TICK_S)
            self._late_s.append(late_s)
            self._own_s.append(max(0.0, late_s - (_without_a_core_s() - waited_s)))

    def report(self, entered: int, errors: Counter[str]) -> Report:
        """Return what was seen."""
        late_s, own_s = sorted(self._late_s), sorted(self._own_s)
        worst = len(late_s) * 99 // 100
        return Report(entered, dict(errors), len(late_s), (late_s[-1], late_s[worst]), (own_s[-1], own_s[worst]))


def _without_a_core_s() -> float:
    """Return how long this thread was ready to run, and did not; 0 where the system does not tell."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


class Holders:
    """The users of all keys in this process."""

    def __init__(self, plan: Plan, observed: Redis) -> None:
        self._plan = plan
        self._observed = observed
        self._count = Count(observed, plan.permits)
        self._inside: dict[int, tuple[Permit, float, asyncio.Future[None]]] = {}
        self._letting_go = False
        self.entered = 0
        self.errors: Counter[str] = Counter()

    async def run(self) -> None:
        """Use every key once."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._let_go())
            for key in range(self._plan.keys):
                group.create_task(self._use(key))
                if key % SLICE == 0:
                    await asyncio.sleep(0)

    async def _use(self, key: int) -> None:
        try:
            async with limit(NAME, key=f"key-{key}") as permit:
                self.entered += 1
                await self._count.add(key, 1)
                try:
                    if not self._letting_go:
                        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                        self._inside[key] = permit, permit.valid_until_s, future
                        await future
                finally:
                    await self._count.add(key, -1)
        except LimitError as exc:
            self.errors[type(exc).__name__] += 1

    async def _let_go(self) -> None:
        while int(await self._observed.get(INSIDE) or 0) < self._plan.keys * self._plan.permits:
            await asyncio.sleep(POLL_S)
            if self.errors:  # not all keys will be full any more: say so, instead of waiting
                await self._observed.set(LET_GO, 1)
            if await self._observed.exists(LET_GO):
                break
        for permit, first_until_s, _ in list(self._inside.values()):
            while permit.valid_until_s < first_until_s + self._plan.lease_s and not self.errors and not permit.lost:
                await asyncio.sleep(POLL_S)
        await self._observed.incr(RENEWED)
        while not await self._observed.exists(LET_GO):
            await asyncio.sleep(POLL_S)
        self._letting_go = True
        while self._inside:
            for key in list(itertools.islice(self._inside, SLICE)):
                _, _, future = self._inside.pop(key)
                if not future.done():
                    future.set_result(None)
            await asyncio.sleep(0)


async def main(plan: Plan) -> Report:
    """Run one process."""
    use_limits_url(plan.limits_url)
    Semaphore(NAME, plan.permits, cluster=True, lease_s=plan.lease_s)
    settle_garbage_collection(load_settings().gc_threshold)  # as a worker does
    lag = Lag()
    async with Redis.from_url(plan.observed_url) as observed:
        watching = asyncio.create_task(lag.watch())
        holders = Holders(plan, observed)
        await holders.run()
        watching.cancel()
        await asyncio.wait([watching])
    await lifetimes().close()
    return lag.report(holders.entered, holders.errors)


if __name__ == "__main__":
    print(msgspec.json.encode(asyncio.run(main(msgspec.json.decode(sys.argv[1], type=Plan)))).decode())
