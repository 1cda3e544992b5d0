"""Files from streams: whole under their names, or not there; in place only where that is asked for."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asyncworker.errors import SFTPConnectionLost, SFTPError, SFTPFileNotFound
from asyncworker.sftp import SFTPPool
from tests.integration.sftp.conftest import Folders, pool_of
from tests.servers.sftp import SFTPServer
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer

BLOCKS = [random.Random(number).randbytes(size) for number, size in enumerate((1, 0, 70_000, 3_000_000, 5, 2_000_000))]


async def stream(*blocks: bytes, then: BaseException | None = None) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block
    if then is not None:
        raise then


def left(folders: Folders) -> list[str]:
    return sorted(path.name for path in folders.remote.iterdir())


@pytest.mark.parametrize("inplace", [False, True])
async def test_a_stream_becomes_a_file(any_server: Server, folders: Folders, inplace: bool) -> None:
    new, old = folders.remote / "new", Path(folders.make("old", b"longer than nothing"))
    async with pool_of(any_server) as pool:
        sent = await pool.put_stream(stream(*BLOCKS), new, mtime=1_500_000_000, inplace=inplace)
        assert (sent.remote, sent.size_bytes, sent.mtime) == (str(new), 5_070_006, 1_500_000_000)
        await pool.put_stream([b"ab", b"c"], old, mode=0o600, inplace=inplace)
        await pool.put_stream([], folders.remote / "empty", inplace=inplace)
        with pytest.raises(SFTPFileNotFound):
            await pool.put_stream([b"x"], folders.remote / "missing" / "x", inplace=inplace)
        with pytest.raises(SFTPError):
            await pool.put_stream([b"x"], folders.remote, inplace=inplace)
    assert new.read_bytes() == b"".join(BLOCKS)
    assert new.stat().st_mtime == 1_500_000_000
    assert old.read_bytes() == b"abc"
    assert left(folders) == ["empty", "new", "old"]


@pytest.mark.parametrize("transport", ["asyncssh", "openssh"])
async def test_a_folder_that_is_missing_is_named(sshd: Sshd, folders: Folders, transport: str) -> None:
    missing = folders.remote / "missing"
    source = folders.local / "source"
    source.write_bytes(b"x")

    async def write(pool: SFTPPool) -> None:
        async with pool.open(missing / "x", "w") as file:
            await file.write(b"x")

    options = {"ssh_config": "/dev/null"} if transport == "openssh" else {}
    async with pool_of(sshd, transport=transport, **options) as pool:
        for failing in (
            pool.put(source, missing / "x"),
            pool.put(source, missing / "x", inplace=True),
            pool.put_stream([b"x"], missing / "x"),
            pool.put_stream([b"x"], missing / "x", inplace=True),
            write(pool),
        ):
            with pytest.raises(SFTPFileNotFound, match=re.escape(f"does the folder {missing} exist?")):
                await failing
        with pytest.raises(SFTPFileNotFound) as reading:
            await pool.get(missing / "x", folders.local / "x")
    assert "does the folder" not in str(reading.value)


@pytest.mark.promise("sftp-stream-is-whole-or-not-there")
async def test_a_stream_that_raises_leaves_the_old_file(server: Server, folders: Folders) -> None:
    old = Path(folders.make("old", b"old"))
    async with pool_of(server) as pool:
        for path in (old, folders.remote / "new"):
            with pytest.raises(RuntimeError, match="enough"):
                await pool.put_stream(stream(*BLOCKS, then=RuntimeError("enough")), path)
    assert (left(folders), old.read_bytes()) == (["old"], b"old")


async def test_a_stream_is_cancelled(server: Server, folders: Folders) -> None:
    old = Path(folders.make("old", b"old"))
    waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield BLOCKS[3]
        waiting.set()
        await asyncio.Event().wait()

    async with pool_of(server) as pool:
        job = asyncio.create_task(pool.put_stream(endless(), old))
        await waiting.wait()
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
    assert (left(folders), old.read_bytes()) == (["old"], b"old")


@pytest.mark.parametrize("existed", [False, True])
async def test_in_place_a_part_is_removed_only_if_there_was_no_file(
    any_server: Server, folders: Folders, existed: bool
) -> None:
    path = folders.remote / "a"
    if existed:
        path.write_bytes(b"old")
    async with pool_of(any_server) as pool:
        with pytest.raises(RuntimeError, match="enough"):
            await pool.put_stream(stream(BLOCKS[2], then=RuntimeError("enough")), path, inplace=True)
        assert left(folders) == ["a"] * existed
        with pytest.raises(SFTPError, match="refused by the test") as caught:
            refused = SFTPError("refused by the test")
            await pool.put_stream(stream(BLOCKS[2], then=refused), path, inplace=True)
        assert ("may hold a part of the new file" in str(caught.value)) is existed
    assert left(folders) == ["a"] * existed


@pytest.mark.parametrize("inplace", [False, True])
async def test_a_lost_connection_leaves_nothing(own_sshd: Sshd, folders: Folders, inplace: bool) -> None:
    path = folders.remote / "new"

    async def cut() -> AsyncIterator[bytes]:
        yield BLOCKS[3]
        while not await asyncio.to_thread(lambda: any(found.stat().st_size for found in folders.remote.iterdir())):
            await asyncio.sleep(0.01)
        await asyncio.to_thread(own_sshd.kill_sessions)
        while True:
            yield BLOCKS[2]
            await asyncio.sleep(0)

    async with pool_of(own_sshd, connections=1) as pool:
        with pytest.raises(SFTPConnectionLost):
            await pool.put_stream(cut(), path, inplace=inplace)
        async with asyncio.timeout(120):
            while left(folders):
                await asyncio.sleep(0.01)
