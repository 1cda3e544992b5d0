"""The destination cannot take the file: the error names it, and nothing half-written stays."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncworker.sftp import Transfer
from tests.integration.sftp.conftest import Folders, pool_of
from tests.integration.sftp.test_get import settled
from tests.servers.sftp import SFTPServer
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer
SIZES = [100, 3_000_000]  # written by the loop's thread, and by another


@contextlib.contextmanager
def small_files_only() -> Iterator[None]:
    """This process may write no file over a megabyte."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes; a machine that lets nobody mount gets the file size limit in its place."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if mount.returncode == 0:
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
        return
    with small_files_only():
        yield folder


@pytest.mark.parametrize("size", SIZES)
async def test_a_folder_that_is_not_there(server: Server, folders: Folders, size: int) -> None:
    path = folders.make("a", os.urandom(size))
    goal = folders.local / "missing" / "a"
    async with pool_of(server) as pool:
        with pytest.raises(FileNotFoundError) as caught:
            await pool.get(path, goal)
        assert caught.value.filename == str(goal)
        assert await settled(pool)
        await pool.get(path, folders.local / "a")


@pytest.mark.parametrize("size", SIZES)
async def test_a_folder_in_the_place_of_the_file(server: Server, folders: Folders, size: int) -> None:
    path = folders.make("a", os.urandom(size))
    (folders.local / "a").mkdir()
    async with pool_of(server) as pool:
        with pytest.raises(IsADirectoryError) as caught:
            await pool.get(path, folders.local / "a")
        assert caught.value.filename == str(folders.local / "a")
        assert await settled(pool)
    assert folders.left() == ["a"]


@pytest.mark.parametrize("size", SIZES)
async def test_a_full_disk(server: Server, folders: Folders, tiny_disk: Path, size: int) -> None:
    paths = [folders.make(str(number), os.urandom(size)) for number in range(3)]
    (tiny_disk / "filler").write_bytes(b"x" * 900_000)
    async with pool_of(server) as pool:
        gets = (pool.get(path, tiny_disk / Path(path).name) for path in paths)
        results = await asyncio.gather(*gets, return_exceptions=True)
        assert await settled(pool)
        for path, result in zip(paths, results, strict=True):
            if not isinstance(result, Transfer):
                assert isinstance(result, OSError)
                assert result.errno in (errno.ENOSPC, errno.EFBIG)
                assert result.filename == str(tiny_disk / Path(path).name)
        done = {Path(path).name for path, result in zip(paths, results, strict=True) if isinstance(result, Transfer)}
        assert len(done) == (3 if size == 100 else 0)
        assert {path.name for path in tiny_disk.iterdir()} == done | {"filler"}
        await pool.get(folders.make("small", b"x"), tiny_disk / "small")  # the pool goes on


async def test_a_file_that_is_larger_than_allowed(server: Server, folders: Folders) -> None:
    """The limit cuts the last write in two: the part that fits is written, then comes the error."""
    just = folders.make("just", b"x" * 1_000_000)
    over = folders.make("over", b"x" * 1_000_001)
    async with pool_of(server) as pool:
        with small_files_only():
            await pool.get(just, folders.local / "just")
            with pytest.raises(OSError, match="over"):
                await pool.get(over, folders.local / "over")
        assert await settled(pool)
    assert folders.left() == ["just"]


@pytest.mark.parametrize("size", SIZES)
async def test_a_folder_that_is_read_only(server: Server, folders: Folders, size: int) -> None:
    """``/proc`` takes no new file from anybody, root included."""
    path = folders.make("a", os.urandom(size))
    goal = Path("/proc/a") if Path("/proc/self").exists() else Path("/a")
    async with pool_of(server) as pool:
        with pytest.raises(OSError, match=str(goal)) as caught:
            await pool.get(path, goal)
        assert caught.value.filename == str(goal)
        assert await settled(pool)


async def test_a_folder_removed_in_mid_run(server: Server, folders: Folders) -> None:
    paths = {str(number): folders.make(str(number), b"x" * 30_000) for number in range(300)}
    async with pool_of(server) as pool:
        jobs = [asyncio.create_task(pool.get(path, folders.local / name)) for name, path in paths.items()]
        await jobs[0]
        folders.local.rename(folders.local.parent / "moved")
        results = await asyncio.gather(*jobs, return_exceptions=True)
        assert await settled(pool)
    done = {name for name, result in zip(paths, results, strict=True) if isinstance(result, Transfer)}
    assert len(done) < len(jobs)
    assert {path.name for path in (folders.local.parent / "moved").iterdir()} == done
    assert all(isinstance(result, Transfer | FileNotFoundError) for result in results)
