"""Files arrive whole, or an error says why not, and nothing else is left behind."""

from __future__ import annotations

import asyncio
import os
import random
import stat
from pathlib import Path

import pytest

from asyncworker.errors import SFTPError, SFTPFileChanged, SFTPFileNotFound, SFTPNameError
from asyncworker.sftp import Transfer
from tests.integration.sftp.conftest import Folders, pool_of
from tests.servers.sftp import SFTPServer
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer

#: One READ of OpenSSH's server, and of one that names no limit.
BLOCKS = (261120, 32768)
SIZES = sorted({0, 1, 1_048_576, 1_048_577, 5_000_000} | {block + n for block in BLOCKS for n in (-1, 0, 1)})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("known", [True, False], ids=["size-known", "size-unknown"])
async def test_every_byte_arrives(any_server: Server, folders: Folders, size: int, known: bool) -> None:
    content = random.Random(size).randbytes(size)
    remote = folders.make("a", content)
    os.utime(remote, (1_500_000_000, 1_500_000_000))
    local = folders.local / "a"
    async with pool_of(any_server) as pool:
        extra = {"size_bytes": size, "mtime": 1_500_000_000} if known else {}
        transfer = await pool.get(remote, local, **extra)
    assert transfer == Transfer(remote, str(local), size, 1_500_000_000)
    assert local.read_bytes() == content
    assert local.stat().st_mtime == 1_500_000_000
    assert folders.left() == ["a"]


async def test_two_thousand_small_files_at_once(each_way: Server, folders: Folders) -> None:
    source = random.Random(1)
    contents = {f"{number}.xml": source.randbytes(source.randrange(3000)) for number in range(2000)}
    for name, content in contents.items():
        folders.make(name, content)
    async with pool_of(each_way) as pool:
        entries = [entry async for entry in pool.list(str(folders.remote))]
        transfers = await asyncio.gather(*(pool.get(entry.path, folders.local / entry.name) for entry in entries))
        assert pool._connections.in_flight == 0 or await settled(pool)
    assert sum(transfer.size_bytes for transfer in transfers) == sum(map(len, contents.values()))
    assert {path.name: path.read_bytes() for path in folders.local.iterdir()} == contents


async def test_large_and_small_files_together(each_way: Server, folders: Folders) -> None:
    contents = {f"small-{n}": b"x" * n for n in range(300)} | {f"large-{n}": os.urandom(3_000_000) for n in range(5)}
    paths = {name: folders.make(name, content) for name, content in contents.items()}
    async with pool_of(each_way, connections=1) as pool:
        await asyncio.gather(*(pool.get(path, folders.local / name) for name, path in paths.items()))
    assert {path.name: path.read_bytes() for path in folders.local.iterdir()} == contents


async def test_replaces_a_file_and_keeps_its_permissions_sane(each_way: Server, folders: Folders) -> None:
    remote = folders.make("a", b"new")
    Path(remote).chmod(0o4755)
    (folders.local / "a").write_bytes(b"old and longer")
    async with pool_of(each_way) as pool:
        await pool.get(remote, folders.local / "a")
    assert (folders.local / "a").read_bytes() == b"new"
    assert stat.S_IMODE((folders.local / "a").stat().st_mode) & ~0o755 == 0


async def test_a_missing_file_is_named_and_the_connection_stays(server: Server, folders: Folders) -> None:
    remote = folders.make("there", b"x")
    async with pool_of(server) as pool:
        await pool.get(remote, folders.local / "there")
        connection = pool._connections._sessions[0]
        for _ in range(3):
            with pytest.raises(SFTPFileNotFound, match="/not/there") as caught:
                await pool.get("/not/there", folders.local / "a")
        assert caught.value.path == "/not/there"
        assert caught.value.host == f"127.0.0.1:{server.port}"
        await pool.get(remote, folders.local / "again")
        assert pool._connections._sessions == [connection]
    assert folders.left() == ["again", "there"]


async def test_one_missing_among_many_fails_alone(each_way: Server, folders: Folders) -> None:
    paths = [folders.make(str(n), b"x") if n % 10 else f"/not/{n}" for n in range(200)]
    async with pool_of(each_way) as pool:
        jobs = (pool.get(path, folders.local / str(n)) for n, path in enumerate(paths))
        results = await asyncio.gather(*jobs, return_exceptions=True)
    for n, result in enumerate(results):
        assert isinstance(result, Transfer if n % 10 else SFTPFileNotFound)
    assert len(folders.left()) == 180


async def test_a_folder_is_no_file(server: Server, folders: Folders) -> None:
    async with pool_of(server) as pool:
        with pytest.raises(SFTPError, match=str(folders.remote)):
            await pool.get(folders.remote, folders.local / "a")
    assert folders.left() == []


@pytest.mark.parametrize("announced", [0, 5, 99, 101, 400_000, 10_000_000])
@pytest.mark.promise("fetched-file-is-complete")
async def test_a_size_that_is_not_the_announced_one(each_way: Server, folders: Folders, announced: int) -> None:
    remote = folders.make("a", b"x" * 100)
    async with pool_of(each_way) as pool:
        with pytest.raises(SFTPFileChanged, match=str(announced)):
            await pool.get(remote, folders.local / "a", size_bytes=announced, mtime=1)
        with pytest.raises(SFTPFileChanged):
            await pool.get(remote, folders.local / "a", size_bytes=announced)
        assert await settled(pool)
    assert folders.left() == []


async def test_a_path_with_a_nul_never_leaves(sshd: Sshd, folders: Folders) -> None:
    async with pool_of(sshd) as pool:
        with pytest.raises(SFTPNameError):
            await pool.get("/etc/passwd\0.xml", folders.local / "a")
        assert pool._connections.count == 0


async def test_names_that_are_not_utf8(each_way: Server, folders: Folders) -> None:
    raw = os.path.join(os.fsencode(folders.remote), b"caf\xe9.xml")  # noqa: PTH118
    with open(raw, "wb") as file:  # noqa: PTH123
        file.write(b"x")
    async with pool_of(each_way) as pool:
        (entry,) = [entry async for entry in pool.list(folders.remote)]
        await pool.get(entry.path, folders.local / entry.name)
    assert [os.fsencode(path.name) for path in folders.local.iterdir()] == [b"caf\xe9.xml"]


async def test_pool_closed_in_mid_run_fails_what_runs(each_way: Server, folders: Folders) -> None:
    paths = [folders.make(str(n), b"x" * 50_000) for n in range(400)]
    pool = pool_of(each_way)
    jobs = [asyncio.create_task(pool.get(path, folders.local / str(n))) for n, path in enumerate(paths)]
    await jobs[0]
    await pool.close()
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert all(isinstance(result, Transfer | SFTPError) for result in results)
    done = [str(n) for n, result in enumerate(results) if isinstance(result, Transfer)]
    assert len(done) < len(jobs)
    assert folders.left() == sorted(done)
    with pytest.raises(SFTPError, match="closed"):
        await pool.get(paths[0], folders.local / "late")


async def settled(pool: object) -> bool:
    """Wait until every place is given back: a CLOSE may still be under way when its file is there."""
    connections = pool._connections  # type: ignore[attr-defined]
    async with asyncio.timeout(120):
        while connections.in_flight:
            await asyncio.sleep(0.001)
    return all(session.in_flight == 0 and session.protocol.pending == 0 for session in connections._sessions)
