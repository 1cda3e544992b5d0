"""Limits of items: held one by one, and waited for without holding up others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from asyncworker.errors import ItemErrors, LimitTimeout, SettingsError
from asyncworker.iterate import current_item, execute_run, make_options, source_of
from asyncworker.limits import RateLimit, Semaphore, limit, limits


@pytest.fixture(autouse=True)
def no_limits() -> Iterator[None]:
    before = dict(limits)
    limits.clear()
    yield
    limits.clear()
    limits.update(before)


async def test_never_more_than_its_permits_and_all_items_run() -> None:
    semaphore = Semaphore("s", 3)
    RateLimit("r", 1e6, burst=1000)
    now = most = 0

    async def item(row: dict[str, Any]) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return int(row["n"])

    options = make_options(concurrency=20, results="inline", limits=["s", limit("r")])
    outcome = await execute_run(item, source_of({"n": range(100)}), options)
    assert sorted(value for _, value in outcome.results or []) == list(range(100))
    assert most == 3
    assert semaphore.standing() == {}


@pytest.mark.promise("limit-wait-takes-no-slot")
async def test_an_item_that_waits_holds_up_no_other() -> None:
    Semaphore("host", 1)
    go = asyncio.Event()
    done: list[str] = []

    async def item(row: dict[str, Any]) -> None:
        if row["host"] == "slow":
            await go.wait()
        done.append(row["host"])
        if done.count("quick") == 3:
            go.set()

    hosts = ["slow", "slow", "slow", "quick", "quick", "quick"]
    options = make_options(concurrency=2, limits=[limit("host", by="host")])
    # Two of them would hold both places, if those who wait held one.
    outcome = await asyncio.wait_for(execute_run(item, source_of({"host": hosts}), options), 60)
    assert outcome.progress.done == 6
    assert done == ["quick"] * 3 + ["slow"] * 3


async def test_a_permit_is_held_for_one_attempt_and_not_in_between() -> None:
    semaphore = Semaphore("s", 1)

    async def item(row: dict[str, Any]) -> int:
        assert len(semaphore.standing()[""].holders()) == 1
        if current_item().attempt == 1:
            raise ConnectionError("once more")
        return int(row["n"])

    options = make_options(concurrency=4, retries=1, backoff_s=0.01, limits=["s"])
    outcome = await execute_run(item, source_of({"n": range(8)}), options)
    assert outcome.progress.done == 8
    assert semaphore.standing() == {}


async def test_a_time_out_is_the_items_failure() -> None:
    semaphore = Semaphore("s", 1)
    held = await semaphore.acquire(holder="somebody else")

    async def item(row: dict[str, Any]) -> None:
        raise AssertionError("unreachable")

    options = make_options(limits=[limit("s", timeout_s=0.01)])
    outcome = await execute_run(item, source_of({"n": range(2)}), options)
    with pytest.raises(ItemErrors) as caught:
        outcome.raise_for_failures()
    assert all(isinstance(each, LimitTimeout) for each in caught.value.exceptions)
    assert "held by somebody else" in str(caught.value.exceptions[0])
    held.release()


async def test_a_run_that_is_cancelled_leaves_no_permit_behind() -> None:
    semaphore = Semaphore("s", 2)

    async def item(row: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    running = asyncio.create_task(
        execute_run(item, source_of({"n": range(50)}), make_options(concurrency=5, limits=["s"]))
    )
    while "" not in semaphore.standing() or semaphore.standing()[""].waiting < 5:
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert semaphore.standing() == {}


async def test_what_cannot_be_used_ends_the_run() -> None:
    async def item(row: dict[str, Any]) -> None:
        raise AssertionError("unreachable")

    with pytest.raises(SettingsError, match="no limit 's' is declared in this process"):
        await execute_run(item, source_of({"n": [1]}), make_options(limits=["s"]))
    Semaphore("s", 1)
    with pytest.raises(SettingsError, match="the call has no such argument by name; has n"):
        await execute_run(item, source_of({"n": [1]}), make_options(limits=[limit("s", by="host")]))
    with pytest.raises(SettingsError, match="limits is"):
        make_options(limits=[3])
