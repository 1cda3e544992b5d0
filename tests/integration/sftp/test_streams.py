"""A remote file as a stream of bytes, and many files as a stream of results."""

from __future__ import annotations

import asyncio
import os
import random
import re

import pytest

from asyncworker.errors import SettingsError, SFTPConnectionLost, SFTPError, SFTPFileNotFound, SFTPNameError
from asyncworker.sftp import FileResult, SFTPPool
from tests.integration.sftp.conftest import Folders, pool_of
from tests.integration.sftp.test_get import settled
from tests.servers.sftp import SFTPServer, running_sftp_server
from tests.servers.sftp_scripted import Scripted
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer


async def test_a_mode_that_does_not_exist_is_refused_by_name(sshd: Sshd, folders: Folders) -> None:
    async with pool_of(sshd) as pool:
        for mode in ("a", "rb", "r+", None):
            with pytest.raises(SettingsError, match=re.escape(f"mode is {mode!r}; allowed: r, w, x")):
                pool.open(f"{folders.remote}/a", mode)  # type: ignore[call-overload]


@pytest.mark.parametrize("size", [0, 1, 32_768, 32_769, 261_120, 3_000_000])
async def test_read_in_blocks_at_once_and_in_pieces(any_server: Server, folders: Folders, size: int) -> None:
    content = random.Random(size).randbytes(size)
    path = folders.make("a", content)
    async with pool_of(any_server) as pool:
        async with pool.open(path) as file:
            assert b"".join([block async for block in file]) == content
            assert await file.read(1) == b""
        async with pool.open(path, window_bytes=1) as file:
            assert (await file.stat()).size_bytes == size
            assert await file.read() == content
        async with pool.open(path) as file:
            pieces = []
            while piece := await file.read(9_999):
                pieces.append(piece)
            assert all(len(piece) == 9_999 for piece in pieces[:-1])
            assert b"".join(pieces) == content
        assert await settled(pool)


@pytest.mark.parametrize("read_bytes", [1000, 4096])
async def test_short_reads_come_in_order(folders: Folders, read_bytes: int) -> None:
    content = os.urandom(200_000)
    script = Scripted({b"/a": content}, read_bytes=read_bytes, reverse=True)
    with running_sftp_server(folders.local / "server", raw=script) as server:
        async with pool_of(server) as pool:
            async with pool.open("/a") as file:
                assert await file.read() == content
            assert await settled(pool)
            assert script.open_handles == []


@pytest.mark.parametrize("size", [0, 1, 32_768, 3_000_000])
async def test_write(any_server: Server, folders: Folders, size: int) -> None:
    content = random.Random(size).randbytes(size)
    path = folders.remote / "a"
    path.write_bytes(b"x" * 4_000_000)
    async with pool_of(any_server) as pool:
        async with pool.open(path, "w") as file:
            for start in range(0, size, 100_000):
                assert await file.write(content[start : start + 100_000]) == len(content[start : start + 100_000])
            await file.flush()
            assert path.read_bytes() == content
        with pytest.raises(SFTPError, match="/a"):
            async with pool.open(path, "x") as file:
                pass
        async with pool.open(folders.remote / "b", "x", window_bytes=1) as file:
            await file.write(content)
        assert await settled(pool)
    assert (folders.remote / "b").read_bytes() == path.read_bytes() == content


async def test_left_early_or_with_an_error(each_way: Server, folders: Folders) -> None:
    path = folders.make("a", os.urandom(3_000_000))
    async with pool_of(each_way) as pool:
        async with pool.open(path) as file:
            await anext(file)
        with pytest.raises(ValueError, match="closed"):
            await file.read(1)
        with pytest.raises(KeyError):
            async with pool.open(path) as file:
                raise KeyError
        with pytest.raises(SFTPFileNotFound, match="/not/there"):
            async with pool.open("/not/there") as file:
                pass
        with pytest.raises(SFTPFileNotFound, match="/not/there"):
            async with pool.open("/not/there", "w") as _:
                pass
        assert await settled(pool)


async def test_cancelled_at_any_time(each_way: Server, folders: Folders) -> None:
    path = folders.make("a", os.urandom(1_000_000))

    async def use(mode: str) -> None:
        if mode == "r":
            async with pool.open(path) as file:
                await file.read()
        else:
            async with pool.open(folders.remote / "b", "w") as out:
                await out.write(b"x" * 1_000_000)

    async with pool_of(each_way) as pool:
        for mode in ("r", "w"):
            for turns in range(0, 60, 3):
                job = asyncio.create_task(use(mode))
                for _ in range(turns):
                    await asyncio.sleep(0)
                job.cancel()
                await asyncio.wait([job])
        assert await settled(pool)


async def test_a_lost_connection_ends_the_stream(folders: Folders) -> None:
    path = folders.make("a", os.urandom(3_000_000))
    with running_sftp_server(folders.local / "server") as server:
        async with pool_of(server) as pool:
            with pytest.raises(SFTPConnectionLost):
                async with pool.open(path, window_bytes=100_000) as file:
                    await anext(file)
                    await asyncio.to_thread(server.drop_connections)
                    await file.read()
            with pytest.raises(SFTPConnectionLost):
                async with pool.open(folders.remote / "b", "w") as out:
                    await out.write(b"x")
                    await asyncio.to_thread(server.drop_connections)
                    for _ in range(1000):
                        await out.write(b"x" * 100_000)
            assert await settled(pool)


async def test_a_connection_that_is_lost_between_two_writes_ends_the_stream(folders: Folders) -> None:
    with running_sftp_server(folders.local / "server") as server:
        async with pool_of(server) as pool:
            with pytest.raises(SFTPConnectionLost):
                async with pool.open(folders.remote / "b", "w") as out:
                    await out.write(b"x")
                    await out.flush()  # nothing is under way that could fail
                    await asyncio.to_thread(server.drop_connections)
                    while pool._connections.count:
                        await asyncio.sleep(0.001)
                    await out.write(b"x")
            assert await settled(pool)


# -- many files --------------------------------------------------------------------------------------------------------


async def test_get_many_gives_a_result_for_each(server: Server, folders: Folders, sftp_pool: SFTPPool) -> None:
    pairs = [(folders.make(str(n), b"x" * n), folders.local / str(n)) for n in range(100)]
    pairs += [
        ("/not/there", folders.local / "a"),
        ("/nul\0", folders.local / "b"),
        (pairs[0][0], folders.local / "c/d"),
    ]
    results = [result async for result in sftp_pool.get_many(iter(pairs), at_once=9)]
    assert len(results) == 103
    assert all(isinstance(result, FileResult) for result in results)
    failed = {result.remote: type(result.error) for result in results if not result.ok}
    assert failed == {"/not/there": SFTPFileNotFound, "/nul\0": SFTPNameError, pairs[0][0]: FileNotFoundError}
    assert len(folders.left()) == 100


async def test_get_many_from_a_listing(server: Server, folders: Folders, sftp_pool: SFTPPool) -> None:
    for n in range(300):
        folders.make(str(n), b"x" * n)

    async def pairs() -> object:
        async for entry in sftp_pool.list(folders.remote):
            yield entry.path, folders.local / entry.name

    results = [result async for result in sftp_pool.get_many(pairs())]  # type: ignore[arg-type]
    assert all(result.ok for result in results)
    assert len(folders.left()) == 300


async def test_get_many_left_early_stops_all(server: Server, folders: Folders, sftp_pool: SFTPPool) -> None:
    pairs = [(folders.make(str(n), b"x" * 50_000), folders.local / str(n)) for n in range(200)]
    results = sftp_pool.get_many(pairs)
    first = await anext(results)
    assert first.ok
    await results.aclose()
    assert await settled(sftp_pool)
    assert not [name for name in folders.left() if name.endswith(".part")]


async def test_a_source_that_raises_ends_get_many_after_what_it_gave(
    server: Server, folders: Folders, sftp_pool: SFTPPool
) -> None:
    made = folders.make("a", b"")

    def pairs() -> object:
        yield made, folders.local / "a"
        raise KeyError("the source")

    results = []
    with pytest.raises(KeyError, match="the source"):
        async for result in sftp_pool.get_many(pairs()):  # type: ignore[arg-type]
            results.append(result)
    assert [result.ok for result in results] == [True]
