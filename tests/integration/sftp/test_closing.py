"""A pool that is closed, and calls that are cancelled: nothing of them stays on the server, in bounded time."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
from pathlib import Path

import pytest

from asyncworker.errors import SFTPError
from asyncworker.sftp import SFTPPool, upload
from asyncworker.sftp.temporary_names import is_ours
from tests.integration.sftp.conftest import Folders, behind, in_mid_run, pool_of
from tests.integration.sftp.test_get import settled
from tests.servers.proxy import running_proxy
from tests.servers.sftp import SFTPServer
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer


def not_whole(folder: Path) -> list[str]:
    """Names of files of ours below a folder that are not whole."""
    return [str(path) for path in folder.rglob("*") if is_ours(path.name)]


def sources(folders: Folders, count: int, size: int = 3000) -> list[Path]:
    made = [folders.local / f"{number:05}" for number in range(count)]
    for path in made:
        path.write_bytes(os.urandom(size))
    return made


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0  # noqa: PTH208


@pytest.mark.parametrize("seed", range(3))
async def test_an_upload_cancelled_anywhere_leaves_only_whole_files(
    each_way: Server, folders: Folders, seed: int
) -> None:
    chance = random.Random(seed)
    paths = sources(folders, 800)
    (folders.local / "large").write_bytes(os.urandom(3_000_000))
    async with pool_of(each_way, connections=2) as pool:
        job = asyncio.create_task(upload(pool, folders.local, str(folders.remote)))
        wanted = chance.randrange(1, 400)
        await in_mid_run(job, lambda: len(os.listdir(folders.remote)) >= wanted)  # noqa: PTH208
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert not_whole(folders.remote) == []
        assert pool.leftovers == []
    for path in folders.remote.iterdir():
        assert path.read_bytes() == (folders.local / path.name).read_bytes()
    assert len(list(folders.remote.iterdir())) < len(paths)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 30, 60])
@pytest.mark.promise("sftp-cancelled-transfers-leave-nothing")
async def test_a_put_cancelled_anywhere_is_gone_when_the_call_is_over(
    each_way: Server, folders: Folders, turns: int
) -> None:
    (path,) = sources(folders, 1, 500_000)
    async with pool_of(each_way, connections=1) as pool:
        await pool.stat(folders.remote.as_posix())
        for more in range(4):
            job = asyncio.create_task(pool.put(path, f"{folders.remote}/goal"))
            for _ in range(turns + 100 * more):
                await asyncio.sleep(0)
            job.cancel()
            await asyncio.wait([job])
            assert not_whole(folders.remote) == []
        assert await settled(pool)


async def test_a_refused_put_leaves_nothing_though_the_pool_closes_at_once(each_way: Server, folders: Folders) -> None:
    paths = sources(folders, 30)
    for path in paths:
        (folders.remote / path.name / "inside").mkdir(parents=True)  # a folder in the file's place
    async with pool_of(each_way) as pool:
        puts = (pool.put(path, f"{folders.remote}/{path.name}") for path in paths)
        results = await asyncio.gather(*puts, return_exceptions=True)
    assert all(isinstance(result, SFTPError) for result in results)
    assert not_whole(folders.remote) == []


async def test_a_pool_closed_under_its_callers_leaves_nothing(each_way: Server, folders: Folders) -> None:
    paths = sources(folders, 400)
    large = folders.local / "large"
    large.write_bytes(os.urandom(20_000_000))
    pool = pool_of(each_way, connections=2)
    jobs = [asyncio.create_task(pool.put(path, f"{folders.remote}/{path.name}")) for path in paths]
    jobs.append(asyncio.create_task(upload(pool, large, f"{folders.remote}/large")))  # type: ignore[arg-type]
    async with pool.open(f"{folders.remote}/stream", "w") as stream:
        await stream.write(b"x" * 100)
        await in_mid_run(jobs[-1], lambda: len(not_whole(folders.remote)) > 0)
        await pool.close()
        results = await asyncio.gather(*jobs, return_exceptions=True)
        assert not_whole(folders.remote) == []
        assert any(isinstance(result, SFTPError) for result in results)
        with pytest.raises((SFTPError, ValueError)):
            await stream.write(b"late")
    with pytest.raises(SFTPError, match="closed"):
        await pool.put(paths[0], f"{folders.remote}/late")


async def test_what_is_cut_off_while_it_is_cancelled_is_removed_on_another_connection(
    sshd: Sshd, folders: Folders
) -> None:
    sources(folders, 600)
    with running_proxy(sshd.port) as proxy:
        async with pool_of(sshd, connections=2, **behind(proxy, sshd)) as pool:
            job = asyncio.create_task(upload(pool, folders.local, str(folders.remote)))
            await in_mid_run(job, lambda: len(not_whole(folders.remote)) > 5)
            proxy.partition()
            job.cancel()
            proxy.cut()
            proxy.heal()
            await asyncio.wait([job])
    assert not_whole(folders.remote) == []


async def test_what_cannot_be_cleaned_up_in_time_is_named(
    sshd: Sshd, folders: Folders, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("asyncworker.sftp.calls.CLEAN_UP_S", 0.2)
    monkeypatch.setattr("asyncworker.sftp.batch.CLEAN_UP_S", 0.2)
    sources(folders, 600)
    with running_proxy(sshd.port) as proxy:
        async with pool_of(sshd, connections=2, **behind(proxy, sshd)) as pool:
            job = asyncio.create_task(upload(pool, folders.local, str(folders.remote)))
            await in_mid_run(job, lambda: len(not_whole(folders.remote)) > 5)
            proxy.partition()
            job.cancel()
            await asyncio.wait([job])
            with caplog.at_level(logging.WARNING, "asyncworker.sftp"):
                await pool.close()
        left = not_whole(folders.remote)
        (line,) = [record.getMessage() for record in caplog.records if "may be left" in record.getMessage()]
        assert line.startswith(f"{sshd.host}:{proxy.port}: closed with ")
        assert any(path in line for path in left)
        assert "Task was destroyed" not in caplog.text


async def test_cancelled_calls_leave_no_descriptor_no_task_and_no_thread(each_way: Server, folders: Folders) -> None:
    sources(folders, 200, 100_000)
    (folders.local / "large").write_bytes(os.urandom(40_000_000))
    (folders.local / "middle").write_bytes(os.urandom(9_000_000))
    tasks_before = asyncio.all_tasks()

    async def once(pool: SFTPPool, turns: int) -> None:
        job = asyncio.create_task(upload(pool, folders.local, str(folders.remote)))
        for _ in range(turns):
            await asyncio.sleep(0)
        job.cancel()
        await asyncio.wait([job])

    async with pool_of(each_way, connections=2) as pool:
        await upload(pool, folders.local, str(folders.remote / "whole"))  # all connections are made for that
        before = descriptors()
        for turns in (0, 3, 50, 200, 500, 1000):
            await once(pool, turns)
        assert await settled(pool)
        async with asyncio.timeout(120):
            while descriptors() > before:  # those of asyncssh's server are in this process, too
                await asyncio.sleep(0.01)
    assert asyncio.all_tasks() <= tasks_before
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("sftp-files")]
    kept = [name for name in not_whole(folders.remote) if "/.large." not in name]
    assert kept == []  # of the large file, a part may be kept for the next run


async def test_a_walk_that_is_left_early_starts_nothing_more(each_way: Server, folders: Folders) -> None:
    for number in range(40):
        (folders.remote / str(number)).mkdir()
        (folders.remote / str(number) / "file").write_text("x")
    refused: list[str] = []
    async with pool_of(each_way, connections=1) as pool:
        before = asyncio.all_tasks()
        walk = pool.walk(str(folders.remote), on_error=lambda folder, _: refused.append(folder))
        async for _ in walk:
            break
        await walk.aclose()
        assert asyncio.all_tasks() <= before | {task for task in asyncio.all_tasks() if "_make" in repr(task)}
    assert refused == []


async def test_many_puts_that_are_left_early_leave_nothing(each_way: Server, folders: Folders) -> None:
    paths = sources(folders, 500)
    async with pool_of(each_way, connections=2) as pool:
        results = pool.put_many((path, f"{folders.remote}/{path.name}") for path in paths)
        async for result in results:
            assert result.ok
            break
        await results.aclose()
        assert not_whole(folders.remote) == []
