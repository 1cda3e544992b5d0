"""A server's disk that is too small: said before, where the server tells; else an error for each file, and no rest."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncworker.errors import SFTPConnectionLost, SFTPError, SFTPFileNotFound, SFTPNoSpace
from asyncworker.sftp import upload
from tests.integration.sftp.conftest import Folders, pool_of
from tests.integration.sftp.test_download import MEGABYTE, make_tree, tree
from tests.integration.sftp.test_get import settled
from tests.integration.sftp.test_upload_large import LARGE, sent, stopped
from tests.servers.sftp import SFTPServer
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of so many megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = f"size={getattr(request, 'param', 4)}m"
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True)
    if mount.returncode != 0:
        pytest.skip("nobody may mount a file system here: no server's disk can be filled")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_what_the_server_says(server: Server, folders: Folders, disk: Path) -> None:
    async with pool_of(server) as pool:
        found = await pool.statvfs(disk)
        there = os.statvfs(disk)
        assert found.size_bytes == there.f_blocks * there.f_frsize == 4 * MEGABYTE
        assert (found.free_bytes, found.available_bytes) == (4 * MEGABYTE, 4 * MEGABYTE)
        assert (found.files, found.files_free) == (there.f_files, there.f_ffree)
        assert (found.read_only, found.name_bytes) == (False, 255)
        (disk / "a").write_bytes(bytes(MEGABYTE))
        assert (await pool.statvfs(disk)).free_bytes == 3 * MEGABYTE
        with pytest.raises(SFTPFileNotFound, match="/not/there"):
            await pool.statvfs("/not/there")
        assert await settled(pool)


async def test_a_server_that_does_not_say(_paramiko_server: SFTPServer) -> None:
    async with pool_of(_paramiko_server) as pool:
        with pytest.raises(SFTPError, match="does not offer statvfs"):
            await pool.statvfs("/")
        assert await settled(pool)


@pytest.mark.parametrize("skip", ["same", "never"])
@pytest.mark.promise("sftp-upload-that-cannot-fit-is-refused")
async def test_what_cannot_fit_is_not_begun(server: Server, folders: Folders, disk: Path, skip: str) -> None:
    make_tree(folders.local, {f"{n}": bytes(MEGABYTE) for n in range(5)} | {"large/one": bytes(9 * MEGABYTE)})
    async with pool_of(server) as pool:
        for source in (folders.local, folders.local / "large" / "one"):
            with pytest.raises(SFTPNoSpace, match=r"4,194,304 are free") as caught:
                await upload(pool, source, disk, skip=skip)  # type: ignore[arg-type]
            assert str(disk) in str(caught.value)
            assert tree(disk) == {}
        await upload(pool, folders.local, disk, dry_run=True)
        report = await upload(pool, folders.local, disk, include="[123]", skip=skip)  # type: ignore[arg-type]
        report.raise_for_errors()
        assert await settled(pool)
    assert set(tree(disk)) == {"1", "2", "3"}


async def test_what_is_there_already_needs_no_room(server: Server, folders: Folders, disk: Path) -> None:
    make_tree(folders.local, {f"{n}": bytes(700_000) for n in range(5)} | {"small": b"x" * 50_000})
    async with pool_of(server) as pool:
        (await upload(pool, folders.local, disk)).raise_for_errors()
        (folders.local / "new").write_bytes(bytes(100_000))
        (folders.local / "small").write_bytes(b"y" * 50_000)
        assert (await pool.statvfs(disk)).free_bytes < 700_000
        (await upload(pool, folders.local, disk)).raise_for_errors()
    assert tree(disk) == tree(folders.local)


@pytest.mark.parametrize("disk", [100], indirect=True)
async def test_a_part_that_is_there_needs_no_room(server: Server, folders: Folders, disk: Path) -> None:
    make_tree(folders.local, {"large": random.Random(1).randbytes(LARGE)})
    there = Folders(disk, folders.local)
    part = await stopped(server, there)
    with (disk / "filler").open("wb") as file:
        file.write(bytes(100 * MEGABYTE - LARGE - MEGABYTE))
    assert os.statvfs(disk).f_bfree * 4096 < LARGE - 32 * MEGABYTE + MEGABYTE
    moved, report = await sent(server, there)
    report.raise_for_errors()
    assert moved < LARGE * 0.9
    assert not part.exists()
    assert (disk / "large").read_bytes() == (folders.local / "large").read_bytes()


async def test_a_disk_that_is_full_in_mid_run(any_server: Server, folders: Folders, disk: Path) -> None:
    make_tree(folders.local, {"large": bytes(9 * MEGABYTE), "medium": bytes(5 * MEGABYTE), "small": b"x" * 100})
    async with pool_of(any_server) as pool:
        report = await upload(pool, folders.local, disk, check_space=False)
        assert await settled(pool)
        failed = {Path(result.remote).name: result.error for result in report.errors}
        assert {"large", "medium"} <= failed.keys()
        assert all(isinstance(error, SFTPError) for error in failed.values())
        assert not any(isinstance(error, SFTPConnectionLost) for error in failed.values())
        async with asyncio.timeout(120):
            while any(path.name.endswith(".part") for path in disk.iterdir()):
                await asyncio.sleep(0.01)
        (await upload(pool, folders.local / "small", disk)).raise_for_errors()  # the pool and the disk go on
    assert set(tree(disk)) == {"small"}
