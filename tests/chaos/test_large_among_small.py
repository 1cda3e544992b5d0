"""Large files among small ones: whole, and nobody waits for them. ``python -m`` moves gigabytes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncworker.sftp import SFTPPool
from tests.chaos.large_among_small import MEGABYTE, make, move, same
from tests.servers.sshd import Sshd, running_sshd

SMALL = 1000


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """A server for one test."""
    with running_sshd(tmp_path / "sshd") as server:
        yield server


@pytest.mark.parametrize("up", [False, True], ids=["down", "up"])
async def test_no_small_file_waits_for_the_large_ones(sshd: Sshd, tmp_path: Path, up: bool) -> None:
    source, goal = tmp_path / "source", tmp_path / "goal"
    await asyncio.to_thread(make, source, 2, 200 * MEGABYTE + 7, SMALL)
    goal.mkdir()
    options = {"port": sshd.port, "username": sshd.username, "known_hosts": sshd.known_hosts}
    async with SFTPPool(sshd.host, client_keys=sshd.client_key, **options) as pool:
        outcome = await move(pool, source, goal, up=up)
    outcome.report.raise_for_errors()
    assert outcome.report.files_done == SMALL + 2
    assert outcome.small_before > SMALL // 2
    assert await asyncio.to_thread(same, source, goal)
