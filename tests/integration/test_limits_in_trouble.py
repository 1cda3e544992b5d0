"""Permits in trouble: a Redis that is full, a replica, restarted, or has another clock; a block that ends elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncworker.limits import RateLimit, Semaphore, limit, limits, use_limits_url
from asyncworker.limits.scripts import key_of
from asyncworker.resources import lifetimes
from tests.servers.valkey import RestartableValkey, running_valkey

WAIT_S = 60.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RestartableValkey]:
    """A server that may be frozen, cut and restarted; limits are kept on it."""
    limits.clear()
    with running_valkey(tmp_path / "own") as running:
        use_limits_url(running.url())
        yield running
    use_limits_url("")
    limits.clear()


@pytest.fixture(autouse=True)
async def closed_limits(server: RestartableValkey) -> AsyncIterator[None]:
    yield
    await lifetimes().close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


def held(server: RestartableValkey, key: str = "") -> int:
    with server.connect() as client:
        return int(client.zcard(key_of("held", "s", key)))  # type: ignore[arg-type]


@pytest.mark.parametrize("as_replica", [False, True])
@pytest.mark.parametrize("kind", ["semaphore", "rate"])
async def test_a_redis_that_cannot_write_for_now_is_waited_for(
    server: RestartableValkey, kind: str, as_replica: bool, caplog: pytest.LogCaptureFixture
) -> None:
    used = Semaphore("s", 1, cluster=True) if kind == "semaphore" else RateLimit("s", 1000, cluster=True)
    (await used.acquire()).release()
    with server.refusing_writes(as_replica=as_replica):
        waiting = asyncio.create_task(used.acquire())
        await until(lambda: "Redis does not answer, or cannot now" in caplog.text or waiting.done())
        # A full server still lets a step give back, and so does the rest of it.
        assert not waiting.done() or (kind == "semaphore" and not as_replica and waiting.exception() is None), waiting
    (await asyncio.wait_for(waiting, WAIT_S)).release()


@pytest.mark.parametrize("as_replica", [False, True])
async def test_a_permit_outlives_a_redis_that_cannot_write_for_now(
    server: RestartableValkey, as_replica: bool, caplog: pytest.LogCaptureFixture
) -> None:
    Semaphore("s", 1, cluster=True, lease_s=6)
    async with limit("s") as permit:
        with server.refusing_writes(as_replica=as_replica):
            first_until_s = permit.valid_until_s
            await until(lambda: "cannot now" in caplog.text or permit.valid_until_s > first_until_s)
        await until(lambda: permit.valid_until_s > first_until_s)
        assert permit.held
        assert held(server) == 1


async def test_a_permit_outlives_a_restart_of_redis(server: RestartableValkey) -> None:
    semaphore = Semaphore("s", 1, cluster=True, lease_s=20)
    async with limit("s") as permit:
        waiting = asyncio.create_task(semaphore.acquire())
        await until(lambda: semaphore.standing()[""].waiting)
        first_until_s = permit.valid_until_s
        await asyncio.to_thread(restart, server)
        await until(lambda: permit.valid_until_s > first_until_s or permit.lost)
        assert permit.held
        assert not waiting.done()
    (await asyncio.wait_for(waiting, WAIT_S)).release()


def restart(server: RestartableValkey) -> None:
    with server.connect() as client:
        client.waitaof(1, 0, 5000)
    server.kill()
    server.start()


@pytest.mark.parametrize("kind", ["semaphore", "rate"])
async def test_a_clock_of_redis_that_was_set_back_keeps_nobody_waiting(server: RestartableValkey, kind: str) -> None:
    used = Semaphore("s", 1, cluster=True, lease_s=1) if kind == "semaphore" else RateLimit("s", 10, cluster=True)
    with server.connect() as client:
        seconds, _ = client.time()  # type: ignore[misc]
        later = seconds + 3600
        # As a process has left it that died before the clock was set back, or the server that it failed over from.
        client.zadd(key_of("held", "s", ""), {"dead:1:x/1": later * 1000})
        client.zadd(key_of("queue", "s", ""), {"dead:1:x/2": 1})
        client.zadd(key_of("alive", "s", ""), {"dead:1:x/2": later * 1000})
        client.set(key_of("last", "s", ""), later * 1_000_000)
    (await asyncio.wait_for(used.acquire(), WAIT_S)).release()


async def test_a_block_that_ends_on_another_thread_gives_its_permit_back(server: RestartableValkey) -> None:
    Semaphore("s", 1, cluster=True)
    Semaphore("local", 1)

    async def block() -> None:
        async with limit("s"), limit("local"):
            await asyncio.Event().wait()

    # What is forgotten is collected, and so ended, by whichever thread makes the next object.
    for number in range(2):
        forgotten = block()
        entered: Any = None
        while not (held(server) == 1 and limits["local"].standing()):
            entered = entered or asyncio.create_task(driven(forgotten))
            await asyncio.sleep(0.01)
        entered.cancel()
        await asyncio.wait([entered])
        await asyncio.to_thread(forgotten.close)
        async with limit("s", timeout_s=WAIT_S), limit("local", timeout_s=WAIT_S):
            assert held(server) == 1, number


async def driven(coroutine: Any) -> None:
    """Drive a coroutine to where it waits for ever, and leave it there."""
    while True:
        future = coroutine.send(None)
        future._asyncio_future_blocking = False
        await asyncio.wait([future])
