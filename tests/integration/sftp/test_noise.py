"""Several things that fail at once are one error to the caller: the event loop has nothing to complain of."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import psutil
import pytest

from asyncworker.errors import AsyncWorkerError
from asyncworker.sftp import SFTPPool, download, upload
from asyncworker.sftp.pulling import run_each
from asyncworker.sftp.stripes import run_stripes
from tests.integration.sftp.conftest import Folders, behind, grown, in_mid_run, pool_of
from tests.servers.proxy import running_proxy
from tests.servers.sshd import Sshd
from tests.unit.sftp.test_stripes import a_pool


@pytest.fixture
async def complaints() -> AsyncIterator[Callable[[], list[str]]]:
    """What the event loop has complained of: exceptions that nobody took, tasks that were destroyed."""
    found: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: found.append(f"{context['message']}: {context.get('exception')!r}"))

    def all_of_them() -> list[str]:
        gc.collect()
        return found

    yield all_of_them
    loop.set_exception_handler(None)


async def test_stripes_that_fail_at_once(complaints: Callable[[], list[str]]) -> None:
    all_run = asyncio.Barrier(4)

    async def stripe() -> None:
        await all_run.wait()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await run_stripes(a_pool(4), stripe, work_left=lambda: 4, done=lambda: False, moved=lambda: 0)
    assert complaints() == []


async def test_calls_for_many_things_that_fail_at_once(complaints: Callable[[], list[str]]) -> None:
    all_run = asyncio.Barrier(4)

    async def run(_: int) -> None:
        await all_run.wait()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await run_each(range(8), run, at_once=4)
    assert complaints() == []


async def _moved(pool: SFTPPool, folders: Folders, direction: str) -> Any:
    if direction == "up":
        return await upload(pool, folders.local, str(folders.remote), retries=0)
    return await download(pool, str(folders.remote), folders.local, retries=0)


@pytest.mark.parametrize("ends", ["cut", "cancelled", "closed", "both"])
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_large_and_small_files_that_end_in_the_middle(
    sshd: Sshd, folders: Folders, direction: str, ends: str, complaints: Callable[[], list[str]]
) -> None:
    source, goal = (folders.local, folders.remote) if direction == "up" else (folders.remote, folders.local)
    for number in range(3):
        (source / f"large{number}").write_bytes(os.urandom(30_000_000))
    for number in range(500):
        (source / str(number)).write_bytes(os.urandom(2000))
    with running_proxy(sshd.port) as proxy:
        pool = pool_of(sshd, connections=4, **behind(proxy, sshd))
        job = asyncio.create_task(_moved(pool, folders, direction))
        await in_mid_run(job, lambda: grown(goal.iterdir(), 2_000_000))
        if ends in ("cut", "both"):
            proxy.stop_listening()
            proxy.cut()
        if ends in ("cancelled", "both"):
            job.cancel()
        if ends == "closed":
            await pool.close()
        with contextlib.suppress(asyncio.CancelledError, AsyncWorkerError):
            await job
        await pool.close()
        del job
    assert complaints() == []


async def test_ssh_that_nobody_waits_for_any_more_while_it_starts(
    sshd: Sshd, complaints: Callable[[], list[str]]
) -> None:
    me = psutil.Process()
    for turns in range(30):
        before = me.children()
        async with pool_of(sshd, transport="openssh", ssh_config="/dev/null") as pool:
            job = asyncio.create_task(pool.stat("/"))
            while not set(me.children()) - set(before):
                await asyncio.sleep(0)
            for _ in range(turns):
                await asyncio.sleep(0)
            job.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await job
    assert complaints() == []
