"""Stripes of one file: as many as there is work and connections for, and never an end before all is done."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from asyncworker.errors import SFTPConnectionLost
from asyncworker.sftp.stripes import run_stripes


def a_pool(connections: int) -> Any:
    """What is asked of a pool here."""
    made = SimpleNamespace(count=connections, want=lambda count: None)
    return SimpleNamespace(options=SimpleNamespace(connections=connections), _connections=made)


async def test_a_part_that_nobody_has_any_more_is_an_error() -> None:
    left = [1]

    async def stripe() -> None:
        left.pop()

    with pytest.raises(RuntimeError, match="lost sight of"):
        await run_stripes(a_pool(2), stripe, work_left=lambda: len(left), done=lambda: False, moved=lambda: 0)


async def test_no_more_at_once_than_there_are_connections() -> None:
    left, running, most = 20, 0, 0

    async def stripe() -> None:
        nonlocal left, running, most
        left -= 1
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    await run_stripes(a_pool(3), stripe, work_left=lambda: left, done=lambda: left == 0, moved=lambda: 0)
    assert (left, most) == (0, 3)


async def test_what_is_no_lost_connection_ends_all() -> None:
    stopped = asyncio.Event()

    async def stripe() -> None:
        if not started:
            started.append(1)
            raise ValueError("no")
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    started: list[int] = []
    with pytest.raises(ValueError, match="no"):
        await run_stripes(a_pool(2), stripe, work_left=lambda: 2, done=lambda: False, moved=lambda: 0)
    assert stopped.is_set()


async def test_connections_lost_without_a_byte_between_them_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncworker.sftp.stripes._PAUSE_S", 0)
    tries = 0

    async def stripe() -> None:
        nonlocal tries
        tries += 1
        raise SFTPConnectionLost("gone")

    with pytest.raises(SFTPConnectionLost):
        await run_stripes(a_pool(1), stripe, work_left=lambda: 1, done=lambda: False, moved=lambda: min(tries, 5))
    assert tries == 7  # five that moved something, and three in a row, the first of which is the last of those
