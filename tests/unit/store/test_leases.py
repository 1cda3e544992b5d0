"""Leases: one holder, who is taken over only as he was last seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asyncworker.store import Leases, Store, open_store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(f"sqlite+aiosqlite:///{tmp_path}/store.sqlite")
    yield opened
    await opened.close()


async def test_a_silent_holder_is_taken_over_by_one(store: Store) -> None:
    first, *others = (Leases(store, name) for name in "abcd")
    await first.renew(["key"])
    seen = await first.look("key")
    assert seen is not None
    took = await asyncio.gather(*(other.take("key", seen) for other in others))
    assert sorted(took) == [False, False, True]
    assert not await first.held("key")
    assert [await other.held("key") for other in others] == took
    assert await first.renew(["key"]) == {"key"}


async def test_a_holder_who_is_back_in_time_is_not_taken_over(store: Store) -> None:
    first, second = Leases(store, "a"), Leases(store, "b")
    await first.renew(["key"])
    seen = await second.look("key")
    assert seen is not None
    assert await first.renew(["key"]) == set()
    assert not await second.take("key", seen)
    assert await first.held("key")


async def test_what_has_ended_is_not_taken_over(store: Store) -> None:
    first, second = Leases(store, "a"), Leases(store, "b")
    await first.renew(["key"])
    seen = await second.look("key")
    assert seen is not None
    await first.end("key")
    assert not await second.take("key", seen)
    ended = await second.look("key")
    assert ended is not None
    assert ended.ended
