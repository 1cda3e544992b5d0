"""Modes, times, sizes and links of single paths on the server."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncworker.errors import SFTPError, SFTPFileNotFound
from tests.integration.sftp.conftest import Folders, links_as_they_are, pool_of
from tests.servers.sftp import SFTPServer, TidyFiles, running_sftp_server
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_mode_times_and_size_are_set_through_links(any_server: Server, folders: Folders) -> None:
    path, link = Path(folders.make("a", b"0123456789")), folders.remote / "link"
    link.symlink_to("a")
    async with pool_of(any_server) as pool:
        await pool.chmod(path, 0o640)
        assert mode_of(path) == 0o640
        await pool.chmod(link, 0o700)
        assert mode_of(path) == 0o700
        await pool.utime(path, 1_500_000_000.9)
        assert (path.stat().st_mtime, path.stat().st_atime) == (1_500_000_000, 1_500_000_000)
        await pool.utime(path, 0, atime=2**31)  # 1970, and beyond a signed integer
        assert (path.stat().st_mtime, path.stat().st_atime) == (0, 2**31)
        await pool.truncate(path, 3)
        assert path.read_bytes() == b"012"
        await pool.truncate(path, 5)
        assert path.read_bytes() == b"012\0\0"
        for call in (pool.chmod(path / "x", 0), pool.utime(f"{path}x", 0), pool.truncate(f"{path}x", 0)):
            with pytest.raises(SFTPError, match=str(path)):
                await call


async def test_what_the_protocol_has_no_room_for_is_refused_here(sshd: Sshd, folders: Folders) -> None:
    path = Path(folders.make("a", b"x"))
    async with pool_of(sshd) as pool:
        for call in (
            pool.chmod(path, -1),
            pool.chmod(path, 0o100644),
            pool.utime(path, -1),
            pool.utime(path, 2**32),
            pool.utime(path, float("nan")),
            pool.utime(path, 1, atime=-1),
            pool.truncate(path, -1),
            pool.truncate(path, 2**63),
            pool.symlink("", path),
        ):
            with pytest.raises(ValueError):
                await call
    assert path.read_bytes() == b"x"


async def test_exists(any_server: Server, folders: Folders) -> None:
    path, link = folders.make("a", b""), folders.remote / "link"
    link.symlink_to("nowhere")
    async with pool_of(any_server) as pool:
        assert await pool.exists(path)
        assert await pool.exists(folders.remote)
        assert not await pool.exists(f"{path}x")
        assert not await pool.exists(link)
        assert await pool.exists(link, follow_links=False)


@pytest.mark.parametrize("target", ["a", "nowhere", "../remote/a", "/etc/hosts", "odd \udcff\n name"])
async def test_a_link_is_made_and_read_on_every_server(each_way: Server, folders: Folders, target: str) -> None:
    folders.make("a", b"")
    link = folders.remote / "link"
    async with pool_of(each_way) as pool:
        await pool.symlink(target, link)
        assert os.readlink(link) == target  # noqa: PTH115  (as it stands there)
        assert await pool.readlink(link) == target
        with pytest.raises(SFTPError, match="link"):
            await pool.symlink(target, link)
        with pytest.raises(SFTPError, match="/a"):
            await pool.readlink(folders.remote / "a")
        with pytest.raises(SFTPFileNotFound, match="missing"):
            await pool.readlink(folders.remote / "missing")
    assert sorted(path.name for path in folders.remote.iterdir()) == ["a", "link"]


@links_as_they_are
async def test_links_on_paramiko(any_server: Server, folders: Folders) -> None:
    async with pool_of(any_server) as pool:
        for number in range(3):
            await pool.symlink("target", folders.remote / f"{number}")
        assert await pool.readlink(folders.remote / "2") == "target"
    assert {os.readlink(path) for path in folders.remote.iterdir()} == {"target"}  # noqa: PTH115


class Swapped(TidyFiles):
    """Takes the arguments of SYMLINK in the order that its identification does not lead us to expect."""

    made: int = 0

    def symlink(self, oldpath: bytes, newpath: bytes) -> Any:
        return super().symlink(newpath, oldpath)


@pytest.fixture(scope="module")
def swapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SFTPServer]:
    with running_sftp_server(tmp_path_factory.mktemp("swapped"), sftp_factory=Swapped) as server:
        yield server


@pytest.mark.parametrize("exists", [True, False])
async def test_a_server_of_the_other_order_is_found_out(swapped: SFTPServer, folders: Folders, exists: bool) -> None:
    target, link = folders.remote / "target", folders.remote / "link"
    if exists:
        target.write_bytes(b"precious")
    async with pool_of(swapped) as pool:
        await pool.symlink(target, link)
        await pool.symlink(target, folders.remote / "second")
    assert Path(os.readlink(link)) == Path(os.readlink(folders.remote / "second")) == target  # noqa: PTH115
    assert sorted(path.name for path in folders.remote.iterdir()) == ["link", "second", *["target"] * exists]
    assert not exists or target.read_bytes() == b"precious"


async def test_realpath(each_way: Server, folders: Folders) -> None:
    (folders.remote / "link").symlink_to("deep")
    (folders.remote / "deep").mkdir()
    async with pool_of(each_way) as pool:
        assert await pool.realpath(folders.remote / "link" / ".." / "deep" / ".") == str(folders.remote / "deep")
        home = await pool.realpath()
        assert home.startswith("/")
        assert await pool.realpath(".") == home


async def test_a_folder_a_thousand_levels_deep_is_made(sshd: Sshd, folders: Folders) -> None:
    async with pool_of(sshd) as pool:
        deep = f"{folders.remote}/{'d/' * 1400}"
        await pool.mkdir(deep, parents=True)
        assert (await pool.stat(deep)).is_dir
        assert await pool.remove_tree(f"{folders.remote}/d") == 1400
    assert list(folders.remote.iterdir()) == []
