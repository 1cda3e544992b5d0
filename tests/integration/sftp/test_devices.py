"""What is no regular file, here or on the server, is not replaced by one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from asyncworker import sftp
from asyncworker.errors import SFTPError
from tests.integration.sftp.conftest import Folders, pool_of
from tests.servers.sshd import Sshd

LARGE = 9 * 1024 * 1024


def is_pipe(path: Path) -> bool:
    return stat.S_ISFIFO(path.lstat().st_mode)


@pytest.fixture
def pipe(folders: Folders) -> Path:
    made = folders.local / "a"
    os.mkfifo(made)
    return made


@pytest.mark.parametrize("size", [3, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("through_link", [False, True], ids=["itself", "a-link-to-it"])
async def test_a_download_does_not_replace_a_pipe(
    sshd: Sshd, folders: Folders, pipe: Path, size: int, through_link: bool
) -> None:
    remote, goal = folders.make("a", os.urandom(size)), pipe
    if through_link:
        goal = folders.local / "link"
        goal.symlink_to(pipe)
        remote = str(Path(remote).rename(folders.remote / "link"))
    async with pool_of(sshd) as pool:
        with pytest.raises(FileExistsError, match="a device, a pipe or a socket") as one:
            await pool.get(remote, goal)
        assert one.value.filename == str(goal)
        report = await sftp.download(pool, folders.remote, folders.local)
        many = [result async for result in pool.get_many([(remote, goal)])]
    assert isinstance(report.errors[0].error, FileExistsError)
    assert isinstance(many[0].error, FileExistsError)
    assert is_pipe(pipe)
    assert goal.is_symlink() == through_link
    assert folders.left() == sorted({"a", goal.name})


async def test_a_kept_link_does_not_replace_a_pipe(sshd: Sshd, folders: Folders, pipe: Path) -> None:
    Path(folders.remote, "a").symlink_to("elsewhere")
    async with pool_of(sshd) as pool:
        report = await sftp.download(pool, folders.remote, folders.local, links="keep")
    assert isinstance(report.errors[0].error, FileExistsError)
    assert is_pipe(pipe)


@pytest.mark.parametrize("alone", [False, True], ids=["a-folder", "one-file"])
async def test_an_upload_does_not_replace_a_pipe(sshd: Sshd, folders: Folders, alone: bool) -> None:
    source = folders.local / "a"
    source.write_bytes(b"abc")
    goal = Path(folders.remote, "a")
    os.mkfifo(goal)
    async with pool_of(sshd) as pool:
        if alone:
            report = await sftp.upload(pool, source, str(goal))
        else:
            report = await sftp.upload(pool, folders.local, folders.remote)
    assert isinstance(report.errors[0].error, SFTPError)
    assert "a device, a pipe or a socket" in str(report.errors[0].error)
    assert is_pipe(goal)


@pytest.mark.parametrize("inplace", [False, True], ids=["renamed", "in-place"])
async def test_put_does_not_replace_a_pipe(sshd: Sshd, folders: Folders, inplace: bool) -> None:
    source = folders.local / "a"
    source.write_bytes(b"abc")
    goal, link = folders.remote / "a", folders.remote / "link"
    os.mkfifo(goal)
    link.symlink_to("a")
    async with pool_of(sshd) as pool:
        with pytest.raises(SFTPError, match="a device, a pipe or a socket"):
            await pool.put(source, goal, inplace=inplace)
        with pytest.raises(SFTPError, match="a device, a pipe or a socket"):
            await pool.put_stream([b"abc"], goal, inplace=inplace)
        assert sorted(path.name for path in folders.remote.iterdir()) == ["a", "link"]
        if not inplace:  # the link itself is replaced
            await pool.put(source, link)
            assert not link.is_symlink()
            await pool.put_stream([b"other"], link)
            assert link.read_bytes() == b"other"
    assert is_pipe(goal)
