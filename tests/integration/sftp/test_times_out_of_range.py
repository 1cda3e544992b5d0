"""The protocol has unsigned seconds of 32 bits: a time out of their range becomes the nearest one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncworker import sftp
from asyncworker.errors import SFTPError
from tests.integration.sftp.conftest import Folders, pool_of
from tests.servers.sftp import SFTPServer
from tests.servers.sshd import Sshd

LARGE = 9 * 1024 * 1024
LAST = 2**32 - 1

far = pytest.mark.parametrize(("time", "told"), [(-5, 0), (-1_000_000_000, 0), (LAST + 1, LAST), (5_000_000_000, LAST)])


@pytest.fixture
def source(folders: Folders, time: int) -> Path:
    """A folder with files and a folder of such a time."""
    sub = folders.local / "sub"
    sub.mkdir()
    for name, size in (("empty", 0), ("small", 3), ("large", LARGE)):
        path = sub / name
        path.write_bytes(os.urandom(size))
        os.utime(path, (time, time))
        if path.stat().st_mtime != time:
            pytest.skip("this file system has no room for that time")
    os.utime(sub, (time, time))
    return folders.local


@far
@pytest.mark.parametrize("inplace", [False, True])
async def test_an_upload_gives_the_nearest_time_and_is_the_same_at_the_next_run(
    sshd: Sshd, folders: Folders, source: Path, told: int, inplace: bool
) -> None:
    async with pool_of(sshd) as pool:
        first = await sftp.upload(pool, source, folders.remote, inplace=inplace)
        second = await sftp.upload(pool, source, folders.remote, inplace=inplace)
        back = await sftp.download(pool, folders.remote, source)
    assert (first.ok, first.files_done) == (True, 3)
    assert (second.ok, second.files_done, second.files_skipped) == (True, 0, 3)
    assert (back.ok, back.files_done) == (True, 0)
    there = folders.remote / "sub"
    assert {path.name: int(path.stat().st_mtime) for path in there.iterdir()} == dict.fromkeys(
        ("empty", "small", "large"), told
    )
    assert int(there.stat().st_mtime) == told


@far
async def test_put_gives_the_nearest_time(server: Sshd | SFTPServer, folders: Folders, source: Path, told: int) -> None:
    async with pool_of(server) as pool:
        transfer = await pool.put(source / "sub" / "small", folders.remote / "a")
        results = [one async for one in pool.put_many([(source / "sub" / "small", folders.remote / "b")])]
    assert transfer.mtime == told
    assert [one.ok for one in results] == [True]
    assert [int(path.stat().st_mtime) for path in sorted(folders.remote.iterdir())] == [told, told]


@pytest.mark.parametrize("time", [-1, LAST + 1])
async def test_put_stream_refuses_such_a_time_before_it_sends_anything(sshd: Sshd, folders: Folders, time: int) -> None:
    async with pool_of(sshd) as pool:
        with pytest.raises(ValueError, match="seconds since 1970"):
            await pool.put_stream([b"abc"], folders.remote / "a", mtime=time)
        with pytest.raises(SFTPError):
            await pool.stat(folders.remote / "a")
    assert list(folders.remote.iterdir()) == []
