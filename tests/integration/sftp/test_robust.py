"""Whole folders from servers, over lines and onto disks that are limited, or go away."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
from pathlib import Path

import pytest

from asyncworker.errors import SFTPFileChanged
from asyncworker.sftp import Transfer, download, upload
from tests.integration.sftp.conftest import Folders, behind, configured, in_mid_run, pool_of
from tests.integration.sftp.test_download import MEGABYTE, make_tree, parts, some_files, tree
from tests.integration.sftp.test_get import settled
from tests.integration.sftp.test_local_trouble import tiny_disk  # noqa: F401  (a fixture)
from tests.integration.sftp.test_transports import EVERY_WAY, pool_through, ssh_processes
from tests.servers import sftp_wire as wire
from tests.servers.proxy import running_proxy
from tests.servers.sftp import running_sftp_server
from tests.servers.sftp_scripted import FSTAT, READ, Request, Scripted
from tests.servers.sshd import Sshd

STAT = 17


@EVERY_WAY
@configured("RekeyLimit 1M", "MaxSessions 10", "LogLevel DEBUG1")
async def test_new_keys_every_megabyte(own_sshd: Sshd, folders: Folders, transport: str) -> None:
    files = some_files()
    make_tree(folders.remote, files)
    async with pool_through(transport, own_sshd, connections=2) as pool:
        (await download(pool, folders.remote, folders.local)).raise_for_errors()
        (await upload(pool, folders.local, folders.remote / "again")).raise_for_errors()
        assert await settled(pool)
    assert tree(folders.local) == files == tree(folders.remote / "again")
    megabytes = 2 * sum(map(len, files.values())) // MEGABYTE
    assert (await asyncio.to_thread(own_sshd.log)).count("SSH2_MSG_NEWKEYS received") > megabytes // 2


@EVERY_WAY
@configured("MaxSessions 1", "MaxStartups 2:50:4", open_files=24)
async def test_a_server_with_few_of_everything(own_sshd: Sshd, folders: Folders, transport: str) -> None:
    files = some_files()
    make_tree(folders.remote, files)
    async with pool_through(transport, own_sshd, connections=6) as pool:
        (await download(pool, folders.remote, folders.local)).raise_for_errors()
        (await upload(pool, folders.local, folders.remote / "again")).raise_for_errors()
    assert tree(folders.local) == files == tree(folders.remote / "again")


async def test_one_place_is_enough_to_list_and_to_fetch(sshd: Sshd, folders: Folders) -> None:
    files = some_files()
    make_tree(folders.remote, files)
    async with pool_of(sshd, connections=1, in_flight=1) as pool:
        (await download(pool, folders.remote, folders.local)).raise_for_errors()
    assert tree(folders.local) == files


def one_large(content: bytes, **options: object) -> Scripted:
    """A server of one large file that answers STAT too."""
    script = Scripted({b"/large": content}, **options)  # type: ignore[arg-type]
    bent = script.bend

    def bend(request: Request, answer: bytes) -> bytes:
        if request.kind == STAT:
            return wire.attrs(request.id, len(content), 0o100644, 1_600_000_000)
        return bent(request, answer)

    script.bend = bend
    return script


@pytest.mark.parametrize("read_bytes", [4096, 20_000])
async def test_a_large_file_by_short_reads(folders: Folders, read_bytes: int) -> None:
    content = random.Random(1).randbytes(8 * MEGABYTE + 5)
    script = one_large(content, read_bytes=read_bytes)
    with running_sftp_server(folders.remote / "server", raw=script) as server:
        async with pool_of(server) as pool:
            (await download(pool, "/large", folders.local)).raise_for_errors()
            assert await settled(pool)
    assert tree(folders.local) == {"large": content}
    assert script.open_handles == []


@pytest.mark.parametrize("what", ["shrinks", "grows", "is another", "vanishes"])
async def test_a_large_file_that_is_not_what_was_listed(folders: Folders, what: str) -> None:
    content = bytes(9 * MEGABYTE)
    reads = 0

    def bend(request: Request, answer: bytes) -> bytes:
        nonlocal reads
        reads += request.kind == READ
        if request.kind == READ and what == "shrinks" and request.offset > 4 * MEGABYTE:
            return wire.status(request.id, 1)
        if request.kind == READ and what == "vanishes" and reads > 20:
            return wire.status(request.id, 2)
        if request.kind == FSTAT and what == "is another":
            return wire.attrs(request.id, len(content), 0o100644, 1_600_000_001)
        if request.kind == FSTAT and what == "grows" and reads > 20:
            return wire.attrs(request.id, len(content) + 1, 0o100644, 1_600_000_000)
        return answer

    script = one_large(content, bend=bend)
    with running_sftp_server(folders.remote / "server", raw=script) as server:
        async with pool_of(server) as pool:
            report = await download(pool, "/large", folders.local, resume=False)
            assert await settled(pool)
    assert report.files_failed == 1
    assert isinstance(report.errors[0].error, SFTPFileChanged) or what == "vanishes"
    assert "/large" in str(report.errors[0].error)
    assert script.open_handles == []
    async with asyncio.timeout(120):  # a thread removes it
        while list(folders.local.iterdir()):
            await asyncio.sleep(0.01)


async def test_a_full_disk_fails_what_does_not_fit(sshd: Sshd, folders: Folders, tiny_disk: Path) -> None:  # noqa: F811
    make_tree(folders.remote, {"large": bytes(9 * MEGABYTE), "medium": os.urandom(1_500_000), "small": b"x" * 100})
    (tiny_disk / "filler").write_bytes(b"x" * 900_000)
    async with pool_of(sshd) as pool:
        report = await download(pool, folders.remote, tiny_disk / "in")
        assert await settled(pool)
        failed = {Path(result.local).name: result.error for result in report.errors}
        assert failed.keys() <= {"large", "medium", "small"}
        assert {"large", "medium"} <= failed.keys()
        for error in failed.values():
            assert isinstance(error, OSError)
            assert error.errno in (errno.ENOSPC, errno.EFBIG)
        assert not parts(tiny_disk)
        (tiny_disk / "filler").unlink()
        assert (await download(pool, folders.remote / "small", tiny_disk / "in")).ok


async def test_a_destination_that_is_removed_in_mid_run(sshd: Sshd, folders: Folders) -> None:
    make_tree(folders.remote, {f"{n % 5}/{n}": b"x" * 2000 for n in range(400)} | {"large": bytes(40 * MEGABYTE)})
    with running_proxy(sshd.port) as proxy:
        async with pool_of(sshd, **behind(proxy, sshd)) as pool:
            job = asyncio.create_task(download(pool, folders.remote, folders.local))
            await in_mid_run(job, lambda: any(folders.local.iterdir()))
            proxy.partition()
            await asyncio.to_thread(shutil.rmtree, folders.local, ignore_errors=True)
            assert not job.done()
            proxy.heal()
            report = await job
            assert await settled(pool)
    assert "large" in {Path(result.remote).name for result in report.errors}
    assert report.files_done + report.files_failed >= report.files_found
    assert all(isinstance(result.error, OSError) for result in report.errors)


async def test_a_line_that_falls_silent_and_comes_back(sshd: Sshd, folders: Folders) -> None:
    files = some_files() | {"larger": random.Random(1).randbytes(40 * MEGABYTE)}
    make_tree(folders.remote, files)
    with running_proxy(sshd.port) as proxy:
        async with pool_of(sshd, **behind(proxy, sshd), keepalive_s=1, connect_timeout_s=30) as pool:
            job = asyncio.create_task(download(pool, folders.remote, folders.local))
            await in_mid_run(job, lambda: tree(folders.local))
            proxy.forget()
            assert not job.done()
            logins = await logins_of(sshd)
            async with asyncio.timeout(120):
                report = await job
            assert await settled(pool)
    report.raise_for_errors()
    assert tree(folders.local) == files
    assert await logins_of(sshd) > logins  # the silent ones were given up


async def logins_of(sshd: Sshd) -> int:
    """How many there were."""
    return (await asyncio.to_thread(sshd.log)).count("Accepted publickey")


@EVERY_WAY
async def test_ten_thousand_cancelled_gets(sshd: Sshd, folders: Folders, transport: str) -> None:
    path = folders.make("a", b"x" * 5000)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0  # noqa: PTH208
    async with pool_through(transport, sshd) as pool:
        cancelled = 0
        while cancelled < 10_000:
            jobs = [asyncio.create_task(pool.get(path, folders.local / str(number))) for number in range(1000)]
            await asyncio.sleep(random.random() / 20)
            for job in jobs:
                job.cancel()
            results = await asyncio.gather(*jobs, return_exceptions=True)
            cancelled += sum(isinstance(result, asyncio.CancelledError) for result in results)
            assert all(isinstance(result, Transfer | asyncio.CancelledError) for result in results)
        assert await settled(pool)
        assert pool._connections.waiting == 0
        assert sshd.open_files(path) == 0
    assert ssh_processes() == []
    assert not parts(folders.local)
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 5  # noqa: PTH208


async def test_idle_connections_are_closed_and_made_anew(sshd: Sshd, folders: Folders) -> None:
    path = folders.make("a", b"x")
    async with pool_of(sshd, idle_close_s=0.05) as pool:
        for _ in range(2):
            await pool.get(path, folders.local / "a")
            async with asyncio.timeout(120):
                while pool._connections.count:
                    await asyncio.sleep(0.01)
        assert folders.left() == ["a"]
