"""Large files go up over all connections, in place, and a part is used again only for the same file."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import pytest

from asyncworker.errors import SFTPError, SFTPFileChanged
from asyncworker.sftp import BulkReport, upload
from tests.integration.sftp.conftest import Folders, behind, grown, in_mid_run, pool_of
from tests.integration.sftp.test_download import MEGABYTE, make_tree, tree
from tests.integration.sftp.test_get import settled
from tests.servers.proxy import running_proxy
from tests.servers.sftp import SFTPServer, TidyFiles, running_sftp_server
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer
#: So large that a part of it is worth keeping.
LARGE = 64 * MEGABYTE


def parts(folders: Folders) -> list[Path]:
    """Temporary files on the server."""
    return [path for path in folders.remote.iterdir() if path.name.endswith(".part")]


async def until_sent(folders: Folders, size: int, job: asyncio.Task[BulkReport]) -> None:
    """Wait until a part on the server has grown beyond that size, and the job still runs."""
    await in_mid_run(job, lambda: grown(parts(folders), size))


async def stopped(server: Server, folders: Folders) -> Path:
    """Stop an upload on its way, over a line that is silent by then; returns the part that it leaves."""
    with running_proxy(server.port) as proxy:
        async with pool_of(server, **behind(proxy, server)) as pool:
            job = asyncio.create_task(upload(pool, folders.local, folders.remote))
            await until_sent(folders, LARGE * 2 // 3, job)
            proxy.partition()
            assert not job.done()
            job.cancel()
            await asyncio.wait([job])
            assert job.cancelled()
    (part,) = parts(folders)
    assert not (folders.remote / "large").exists()
    return part


async def sent(server: Server, folders: Folders, **options: Any) -> tuple[int, BulkReport]:
    """Upload; returns how many bytes went over the line."""
    with running_proxy(server.port) as proxy:
        async with pool_of(server, **behind(proxy, server)) as pool:
            report = await upload(pool, folders.local, folders.remote, **options)
            assert await settled(pool)
        return proxy.to_server, report


@pytest.mark.parametrize("size", [8 * MEGABYTE, 8 * MEGABYTE + 1, 20 * MEGABYTE - 1])
@pytest.mark.parametrize("fsync", [False, True])
async def test_every_byte_with_time_and_permissions(
    any_server: Server, folders: Folders, size: int, fsync: bool
) -> None:
    content = random.Random(size).randbytes(size)
    make_tree(folders.local, {"large": content})
    (folders.local / "large").chmod(0o4440)
    (folders.remote / "large").write_bytes(b"what was there before")
    async with pool_of(any_server, connections=3) as pool:
        report = await upload(pool, folders.local, folders.remote, fsync=fsync)
        assert await settled(pool)
    report.raise_for_errors()
    assert report.bytes_done == size
    assert tree(folders.remote) == {"large": content}
    found = (folders.remote / "large").stat()
    assert (found.st_mtime, found.st_mode & 0o7777) == (1_600_000_000, 0o440)


async def test_through_the_program_ssh(each_way: Server, folders: Folders) -> None:
    content = random.Random(1).randbytes(20 * MEGABYTE)
    make_tree(folders.local, {"large": content})
    async with pool_of(each_way, connections=3) as pool:
        (await upload(pool, folders.local, folders.remote)).raise_for_errors()
        assert await settled(pool)
    assert tree(folders.remote) == {"large": content}


async def test_all_connections_write_in_their_places(tmp_path: Path, folders: Folders) -> None:
    places: dict[int, list[int]] = {}

    class Watched(TidyFiles):
        def write(self, file_obj: Any, offset: int, data: bytes) -> Any:
            places.setdefault(id(self), []).append(offset)
            return super().write(file_obj, offset, data)

    make_tree(folders.local, {"large": random.Random(1).randbytes(40 * MEGABYTE)})
    with running_sftp_server(tmp_path / "server", sftp_factory=Watched) as server:
        async with pool_of(server, connections=3) as pool:
            (await upload(pool, folders.local, folders.remote)).raise_for_errors()
    assert tree(folders.remote) == tree(folders.local)
    assert len(places) == 3
    written = [offset for offsets in places.values() for offset in offsets]
    assert len(written) == len(set(written))  # nothing was sent twice
    ends = sorted((min(offsets), max(offsets)) for offsets in places.values())
    assert ends[1][0] < ends[0][1]  # and they took turns: not one after the other


@pytest.mark.promise("sftp-large-file-continues")
async def test_it_goes_on_where_it_stopped(any_server: Server, folders: Folders) -> None:
    make_tree(folders.local, {"large": random.Random(1).randbytes(LARGE)})
    part = await stopped(any_server, folders)
    length = part.stat().st_size
    moved, report = await sent(any_server, folders)
    report.raise_for_errors()
    assert tree(folders.remote) == tree(folders.local)
    assert report.bytes_done == LARGE
    assert moved < LARGE * 0.9
    assert moved < LARGE - length + 34 * MEGABYTE  # what may be missing before a part's end, and the packets' heads


@pytest.mark.parametrize("change", ["mtime", "size", "content", "damaged", "longer", "place", "refused"])
async def test_a_part_of_another_file_is_not_used(sshd: Sshd, folders: Folders, change: str) -> None:
    make_tree(folders.local, {"large": random.Random(1).randbytes(LARGE)})
    part = await stopped(sshd, folders)
    local = folders.local / "large"
    if change == "mtime":
        os.utime(local, (1_600_000_001, 1_600_000_001))
    elif change in ("size", "content"):
        local.write_bytes(random.Random(2).randbytes(LARGE + (change == "size")))
        os.utime(local, (1_600_000_000, 1_600_000_000))
    elif change == "damaged":
        with part.open("r+b") as file:  # as a server's file system may do to the end, which it had not written yet
            file.seek(part.stat().st_size - 33 * MEGABYTE)
            file.write(b"\0" * MEGABYTE)
    elif change == "longer":
        os.truncate(part, LARGE + 5)
    elif change == "place":  # a link in its place leads nowhere
        part.unlink()
        part.symlink_to(folders.make("victim", b"old"))
    moved, report = await sent(sshd, folders, resume=change != "refused")
    report.raise_for_errors()
    assert (folders.remote / "large").read_bytes() == local.read_bytes()
    assert moved > LARGE
    if change in ("mtime", "size"):  # what another version has left is removed
        assert not part.exists()
    assert [path for path in parts(folders) if path != part] == []
    if change == "place":
        assert (folders.remote / "victim").read_bytes() == b"old"


async def test_the_part_of_another_source_stays(sshd: Sshd, folders: Folders) -> None:
    make_tree(folders.local, {"large": random.Random(1).randbytes(LARGE)})
    part = await stopped(sshd, folders)
    elsewhere = Folders(folders.remote, folders.local.parent / "elsewhere")
    make_tree(elsewhere.local, {"large": random.Random(1).randbytes(LARGE)})
    moved, report = await sent(sshd, elsewhere)
    report.raise_for_errors()
    assert moved > LARGE
    assert parts(folders) == [part]


async def test_connections_cut_in_mid_run(any_server: Server, folders: Folders) -> None:
    make_tree(folders.local, {"large": random.Random(1).randbytes(LARGE)})
    with running_proxy(any_server.port) as proxy:
        async with pool_of(any_server, **behind(proxy, any_server)) as pool:
            job = asyncio.create_task(upload(pool, folders.local, folders.remote))
            for size in (LARGE // 4, LARGE // 2):
                await until_sent(folders, size, job)
                await in_mid_run(job, proxy.cut)
            (await job).raise_for_errors()
            assert await settled(pool)
        # What the cut connections had sent is sent again, and no more than that.
        assert LARGE < proxy.to_server < LARGE * 2
    assert tree(folders.remote) == tree(folders.local)


async def test_a_server_that_goes_away_for_good(tmp_path: Path, folders: Folders) -> None:
    make_tree(folders.local, {"large": bytes(LARGE)})
    with running_sftp_server(tmp_path / "server") as server:
        pool = pool_of(server, connect_timeout_s=2)
        job = asyncio.create_task(upload(pool, folders.local, folders.remote))
        await until_sent(folders, LARGE // 4, job)
    async with asyncio.timeout(120):
        report = await job
    await pool.close()
    assert report.files_failed == 1
    assert isinstance(report.errors[0].error, SFTPError)
    assert not (folders.remote / "large").exists()


@pytest.mark.parametrize("resume", [False, True])
async def test_a_local_file_that_changes_is_never_kept(any_server: Server, folders: Folders, resume: bool) -> None:
    make_tree(folders.local, {"large": bytes(LARGE)})
    with running_proxy(any_server.port) as proxy:
        async with pool_of(any_server, **behind(proxy, any_server)) as pool:
            job = asyncio.create_task(upload(pool, folders.local, folders.remote, resume=resume))
            await until_sent(folders, LARGE // 4, job)
            proxy.partition()
            with (folders.local / "large").open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"x")  # the same size
            assert not job.done()
            proxy.heal()
            report = await job
            assert await settled(pool)
    assert report.files_failed == 1
    assert isinstance(report.errors[0].error, SFTPFileChanged)
    assert "large" in str(report.errors[0].error)
    assert tree(folders.remote) == {}


@pytest.mark.parametrize("size", [9 * MEGABYTE, LARGE])
async def test_stopped_on_its_way_without_resuming_leaves_nothing(sshd: Sshd, folders: Folders, size: int) -> None:
    make_tree(folders.local, {"large": bytes(size)})
    async with pool_of(sshd) as pool:
        job = asyncio.create_task(upload(pool, folders.local, folders.remote, resume=size < LARGE))
        await until_sent(folders, MEGABYTE, job)
        job.cancel()
        await asyncio.wait([job])
        assert job.cancelled()
        assert tree(folders.remote) == {}
        assert await settled(pool)
