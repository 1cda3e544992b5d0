"""Files reach the server whole, or an error says why not, and nothing else is left there."""

from __future__ import annotations

import asyncio
import os
import random
from functools import partial
from pathlib import Path

import pytest

from asyncworker.errors import SFTPConnectionLost, SFTPError, SFTPFileChanged, SFTPFileNotFound
from asyncworker.sftp import SFTPPool, Transfer
from asyncworker.sftp.localsource import LocalSource
from asyncworker.sftp.sending import Upload
from tests.integration.sftp.conftest import Folders, behind, in_mid_run, pool_of
from tests.integration.sftp.test_get import SIZES, settled
from tests.servers import sftp_wire as wire
from tests.servers.proxy import running_proxy
from tests.servers.sftp import SFTPServer, running_sftp_server
from tests.servers.sftp_scripted import OPEN, Request, Scripted
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer
WRITE = 6


def local_file(folders: Folders, name: str, content: bytes) -> Path:
    path = folders.local / name
    path.write_bytes(content)
    return path


def there(folders: Folders) -> list[str]:
    """All that is in the remote folder."""
    return sorted(path.name for path in folders.remote.iterdir())


@pytest.mark.parametrize("size", [*SIZES, 65_535, 65_536, 65_537])
async def test_every_byte_arrives(any_server: Server, folders: Folders, size: int) -> None:
    content = random.Random(size).randbytes(size)
    local = local_file(folders, "a", content)
    os.utime(local, (1_500_000_000, 1_500_000_000))
    remote = folders.remote / "a"
    async with pool_of(any_server) as pool:
        transfer = await pool.put(local, remote)
        assert await settled(pool)
    assert transfer == Transfer(str(remote), str(local), size, 1_500_000_000)
    assert remote.read_bytes() == content
    assert remote.stat().st_mtime == 1_500_000_000
    assert there(folders) == ["a"]


async def test_a_file_that_is_there_is_replaced(any_server: Server, folders: Folders) -> None:
    folders.make("a", b"old and longer")
    local = local_file(folders, "a", b"new")
    local.chmod(0o4640)
    async with pool_of(any_server) as pool:
        await pool.put(local, folders.remote / "a", fsync=True)
    assert (folders.remote / "a").read_bytes() == b"new"
    assert (folders.remote / "a").stat().st_mode & 0o7777 == 0o640
    assert there(folders) == ["a"]


async def test_hundreds_at_once(each_way: Server, folders: Folders) -> None:
    source = random.Random(1)
    contents = {f"{n}.xml": source.randbytes(source.randrange(3000)) for n in range(600)}
    contents |= {f"large-{n}": os.urandom(3_000_000) for n in range(3)}
    paths = {name: local_file(folders, name, content) for name, content in contents.items()}
    async with pool_of(each_way) as pool:
        await asyncio.gather(*(pool.put(path, folders.remote / name) for name, path in paths.items()))
        assert await settled(pool)
    assert {path.name: path.read_bytes() for path in folders.remote.iterdir()} == contents


async def test_what_cannot_be_sent_is_named(any_server: Server, folders: Folders) -> None:
    local = local_file(folders, "a", b"x" * 100_000)
    os.mkfifo(folders.local / "pipe")
    async with pool_of(any_server) as pool:
        with pytest.raises(FileNotFoundError) as missing:
            await pool.put(folders.local / "nothing", folders.remote / "a")
        assert missing.value.filename == str(folders.local / "nothing")
        with pytest.raises(OSError, match="regular file"):
            await pool.put(folders.local / "pipe", folders.remote / "a")
        with pytest.raises(OSError, match=str(folders.local)):
            await pool.put(folders.local, folders.remote / "a")
        with pytest.raises(SFTPFileNotFound, match="/not/there"):
            await pool.put(local, "/not/there/a")
        (folders.remote / "folder").mkdir()
        with pytest.raises(SFTPError, match="folder"):
            await pool.put(local, folders.remote / "folder")
        assert await settled(pool)
        assert there(folders) == ["folder"]
        await pool.put(local, folders.remote / "a")


async def test_a_server_that_takes_nothing(sshd: Sshd, folders: Folders) -> None:
    """``/proc`` takes no new file from anybody, and ``/dev/full`` no byte."""
    local = local_file(folders, "a", b"x" * 100_000)
    async with pool_of(sshd) as pool:
        with pytest.raises(SFTPError, match="/proc/a"):
            await pool.put(local, "/proc/a")
        with pytest.raises(SFTPError, match="/dev/full"):
            async with pool.open("/dev/full", "w") as file:
                await file.write(b"x" * 100_000)
        assert await settled(pool)


@pytest.mark.parametrize("change", ["grows", "shrinks"])
async def test_a_local_file_that_changes_is_never_kept(
    server: Server, folders: Folders, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = local_file(folders, "a", b"x" * 3_000_000)
    plain = LocalSource.read

    def read(self: LocalSource, offset: int, length: int) -> object:
        if offset:
            os.truncate(local, 4_000_000 if change == "grows" else 1_000_000)
        return plain(self, offset, length)

    monkeypatch.setattr(LocalSource, "read", read)
    async with pool_of(server) as pool:
        with pytest.raises(SFTPFileChanged, match="3000000"):
            await pool.put(local, folders.remote / "a")
        assert await settled(pool)
    assert there(folders) == []


@pytest.mark.parametrize("seed", range(4))
async def test_puts_cancelled_at_random(server: Server, folders: Folders, seed: int) -> None:
    chance = random.Random(seed)
    contents = {str(n): os.urandom(chance.choice((0, 500, 40_000, 600_000))) for n in range(100)}
    contents["large"] = os.urandom(6_000_000)
    paths = {name: local_file(folders, name, content) for name, content in contents.items()}
    async with pool_of(server, connections=2) as pool:
        jobs = {name: asyncio.create_task(pool.put(path, folders.remote / name)) for name, path in paths.items()}
        for number, name in enumerate(chance.sample(sorted(jobs), 80)):
            jobs[name].cancel()
            if number % 4 == 0:
                await asyncio.sleep(chance.random() / 500)
        results = dict(zip(jobs, await asyncio.gather(*jobs.values(), return_exceptions=True), strict=True))
        assert all(isinstance(result, Transfer | asyncio.CancelledError) for result in results.values())
        assert await settled(pool)
    # One that was cancelled while its rename was under way may be there: whole, like the others.
    assert {name for name, result in results.items() if isinstance(result, Transfer)} <= set(there(folders))
    for name in there(folders):
        assert (folders.remote / name).read_bytes() == contents[name]


async def test_connections_cut_in_mid_run_leave_no_temporary_files(tmp_path: Path, folders: Folders) -> None:
    paths = {str(n): local_file(folders, str(n), os.urandom(200_000)) for n in range(60)}
    paths["large"] = local_file(folders, "large", os.urandom(40_000_000))
    with running_sftp_server(tmp_path / "server") as server, running_proxy(server.port) as proxy:
        async with pool_of(server, **behind(proxy, server), connections=2) as pool:
            jobs = [asyncio.create_task(pool.put(path, folders.remote / name)) for name, path in paths.items()]
            await in_mid_run(jobs[-1], lambda: any(job.done() for job in jobs))
            proxy.partition()
            assert not jobs[-1].done()
            assert proxy.cut() > 0
            proxy.heal()
            results = await asyncio.gather(*jobs, return_exceptions=True)
            assert all(isinstance(result, Transfer) for result in results)
            async with asyncio.timeout(120):
                while there(folders) != sorted(paths):
                    await asyncio.sleep(0.01)
            assert await settled(pool)
    for name, path in paths.items():
        assert (folders.remote / name).read_bytes() == path.read_bytes()


async def test_one_that_waits_for_room_hears_that_the_connection_is_lost(tmp_path: Path, folders: Folders) -> None:
    """Two files fill what a session may leave unanswered; the third has asked for nothing that could fail."""
    path = local_file(folders, "a", b"x" * 5_000_000)
    written = 0

    def bend(request: Request, answer: bytes) -> bytes:
        nonlocal written
        if request.kind == OPEN:
            return wire.handle(request.id, request.text)
        written += request.kind == WRITE
        return b"" if request.kind == WRITE else wire.status(request.id, 0)

    with running_sftp_server(tmp_path / "server", raw=Scripted(bend=bend)) as server:
        async with pool_of(server, connections=1) as pool:
            jobs = [asyncio.create_task(pool._run(upload_of(pool, path, f"/{n}"))) for n in range(2)]
            async with asyncio.timeout(120):
                while written < 8 * 1024 * 1024 // 32768:
                    await asyncio.sleep(0.001)
                jobs.append(asyncio.create_task(pool._run(upload_of(pool, path, "/3"))))
                while not pool._connections._sessions[0]._writers:
                    await asyncio.sleep(0.001)
                await asyncio.to_thread(server.drop_connections)
                results = await asyncio.gather(*jobs, return_exceptions=True)
    assert all(isinstance(result, SFTPConnectionLost) for result in results)


def upload_of(pool: SFTPPool, local: Path, remote: str) -> Upload:
    """One try of an upload."""
    opens = partial(LocalSource, str(local))
    return pool._upload(str(local), remote, remote.encode(), opens, mode=None, mtime=True, fsync=False)


async def test_many_with_a_result_each(server: Server, folders: Folders, sftp_pool: SFTPPool) -> None:
    pairs = [(local_file(folders, str(n), b"x" * n), folders.remote / str(n)) for n in range(50)]
    pairs += [(folders.local / "nothing", folders.remote / "nothing"), (folders.local / "1", Path("/not/there"))]
    results = [result async for result in sftp_pool.put_many(pairs, at_once=7)]
    assert len(results) == 52
    failed = {result.local: type(result.error) for result in results if not result.ok}
    assert failed == {str(folders.local / "nothing"): FileNotFoundError, str(folders.local / "1"): SFTPFileNotFound}
    assert all(result.transfer for result in results if result.ok)
    assert len(there(folders)) == 50
