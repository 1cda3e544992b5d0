"""Leases: one holder, who is taken over only as he was last seen, and who never gets back what he has lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete

from asyncworker.store import Lease, Leases, Store, open_store, schema
from tests.unit.store import test_store

url = test_store.url
store = test_store.store

#: What a process that is late may find of its lease.
Successor = Callable[[Leases, Store], Coroutine[Any, Any, None]]


def now() -> datetime:
    return datetime.now(UTC)


async def seen(leases: Leases, key: str = "key") -> Lease:
    lease = await leases.look(key)
    assert lease is not None
    return lease


async def taken(other: Leases, _store: Store) -> None:
    assert await other.take("key", await other.look("key"))


async def ended(other: Leases, store: Store) -> None:
    await taken(other, store)
    await other.end("key")


async def released(other: Leases, store: Store) -> None:
    await taken(other, store)
    await other.release("key")


async def forgotten(other: Leases, store: Store) -> None:
    await ended(other, store)
    await other.forget_ended(-60)


async def deleted(_other: Leases, store: Store) -> None:
    async with store.writing() as connection:
        await connection.execute(delete(schema.lease))


async def ended_and_claimed_anew(other: Leases, store: Store) -> None:
    await ended(other, store)
    assert await Leases(store, "c").claim({"key": now()}) == set()


SUCCESSORS = [taken, ended, released, forgotten, deleted, ended_and_claimed_anew]


@pytest.mark.promise("silent-holder-is-taken-over")
async def test_a_silent_holder_is_taken_over_by_one(store: Store) -> None:
    first, *others = (Leases(store, name) for name in "abcd")
    await first.claim({"key": now()})
    lease = await seen(first)
    took = await asyncio.gather(*(other.take("key", lease) for other in others))
    assert sorted(took) == [False, False, True]
    assert not await first.held("key")
    assert [await other.held("key") for other in others] == took
    assert await first.renew(["key"]) == {"key"}


async def test_a_holder_who_is_back_in_time_is_not_taken_over(store: Store) -> None:
    first, second = Leases(store, "a"), Leases(store, "b")
    await first.claim({"key": now()})
    lease = await seen(second)
    assert await first.renew(["key"]) == set()
    assert not await second.take("key", lease)
    assert await first.held("key")


async def test_what_has_ended_is_not_taken_over(store: Store) -> None:
    first, second = Leases(store, "a"), Leases(store, "b")
    await first.claim({"key": now()})
    lease = await seen(second)
    await first.end("key")
    assert not await second.take("key", lease)
    assert (await seen(second)).ended


@pytest.mark.parametrize("successor", SUCCESSORS)
async def test_a_lease_that_was_lost_is_never_renewed(store: Store, successor: Successor) -> None:
    first, second = Leases(store, "a"), Leases(store, "b")
    await first.claim({"key": now(), "other": now()})
    await successor(second, store)
    left = await second.look("key")
    assert await first.renew(["key", "other"]) >= {"key"}
    await first.end("key")
    await first.release("key")
    assert await second.look("key") == left
    assert not await first.held("key")


@pytest.mark.parametrize("successor", [taken, ended, ended_and_claimed_anew])
async def test_who_starts_before_another_has_ended_gets_no_lease(store: Store, successor: Successor) -> None:
    first, second, started_at = Leases(store, "a"), Leases(store, "b"), now()
    await successor(second, store)
    left = await second.look("key")
    assert await first.claim({"key": started_at}) == {"key"}
    assert await second.look("key") == left


async def test_who_starts_after_another_has_ended_gets_the_lease(store: Store) -> None:
    first, second = Leases(store, "a"), Leases(store, "b")
    await ended(second, store)
    assert await first.claim({"key": now()}) == set()
    assert await first.held("key")


async def test_a_claim_whose_answer_was_lost_is_repeated(store: Store) -> None:
    first = Leases(store, "a")
    for _ in range(2):
        assert await first.claim({"key": now()}) == set()
    assert await first.held("key")


async def test_of_several_that_claim_at_once_each_lease_has_one_holder(store: Store, url: str) -> None:
    other = await open_store(url)
    keys = [f"{number:03}" for number in range(700)]
    several = [Leases(each, f"holder {number}") for number, each in enumerate([store, other] * 3)]
    orders = [dict.fromkeys(keys[:: -1 if number % 2 else 1], now()) for number in range(6)]
    refused = await asyncio.gather(*(each.claim(order) for each, order in zip(several, orders, strict=True)))
    holders = [number for key in keys for number, keys_refused in enumerate(refused) if key not in keys_refused]
    assert len(holders) == len(keys)
    for each, keys_refused in zip(several, refused, strict=True):
        assert await each.renew(keys) == keys_refused
    await other.close()


@pytest.mark.parametrize("late", ["renew", "end", "release"])
async def test_renewals_and_take_overs_at_once_leave_one_who_believes_that_it_holds_the_lease(
    store: Store, url: str, late: str
) -> None:
    other = await open_store(url)
    first, second = Leases(store, "a"), Leases(other, "b")
    keys = [f"{number:03}" for number in range(150)]
    await first.claim(dict.fromkeys(keys, now()))
    leases = [await seen(second, key) for key in keys]

    async def go(key: str, lease: Lease, first_goes: bool) -> tuple[bool, bool]:
        renewing = asyncio.create_task(first.renew([key]) if late == "renew" else getattr(first, late)(key))
        if first_goes:
            await asyncio.sleep(0)
        took = await second.take(key, lease)
        lost = await renewing
        return took, not lost

    for number, (key, lease) in enumerate(zip(keys, leases, strict=True)):
        took, kept = await go(key, lease, bool(number % 2))
        if late == "renew":
            assert took != kept
            assert (await first.held(key), await second.held(key)) == (kept, took)
        else:
            stored = await second.look(key)
            if took:
                assert stored is not None
                assert (stored.holder, stored.ended) == ("b", False)
            else:
                assert stored is None if late == "release" else stored is not None and stored.ended
    await other.close()


async def test_only_what_ended_long_ago_is_forgotten(store: Store) -> None:
    first = Leases(store, "a")
    keys = ["running", "ended"]
    await first.claim(dict.fromkeys(keys, now() - timedelta(seconds=1)))
    await first.end("ended")
    await first.forget_ended(3600)
    assert [await first.look(key) is not None for key in keys] == [True, True]
    await first.forget_ended(-60)
    assert [await first.look(key) is not None for key in keys] == [True, False]
