"""A process that takes permits of a cluster-wide limit and works with them, until it is killed.

Each piece of work beats in a sorted set that the limit knows nothing of: an observer counts the members that beat. A
holder whose permit does not count any more must not beat. One beat alone does not count: it may have been on its way
when its process was stopped, and arrives when that wakes.
"""

from __future__ import annotations

import asyncio
import random
import sys
import uuid

from redis.asyncio import Redis

from asyncworker.errors import LimitError
from asyncworker.limits import Semaphore, limit, use_limits_url

PERMITS = 20
LEASE_S = 4.0
BEATS = "observed:beats"
DONE = "observed:done"
BEAT_S = 0.05

#: A holder that has beaten within the last moment is alive: shorter than a lease, longer than a beat takes.
LIVE_MS = 400
LAST = "observed:last"
#: By the clock of the server, in milliseconds.
BEAT = f"""
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local last = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
if now - last < {LIVE_MS} then redis.call('ZADD', KEYS[1], now, ARGV[1]) end
redis.call('HSET', KEYS[2], ARGV[1], now)
"""


async def hold(observed: Redis) -> None:
    me = uuid.uuid4().hex
    beat = observed.register_script(BEAT)
    async with limit("work") as permit:
        try:
            for _ in range(random.randrange(2, 8)):
                if not permit.held:
                    return
                await beat([BEATS, LAST], [me])
                await asyncio.sleep(BEAT_S)
            await observed.incr(DONE)
        finally:
            await observed.zrem(BEATS, me)


async def work(observed: Redis) -> None:
    while True:
        try:
            await hold(observed)
        except LimitError:
            continue


async def main(url: str, observed_url: str) -> None:
    use_limits_url(url)
    Semaphore("work", PERMITS, cluster=True, lease_s=LEASE_S)
    async with Redis.from_url(observed_url, max_connections=100) as observed, asyncio.TaskGroup() as group:
        for _ in range(15):
            group.create_task(work(observed))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
