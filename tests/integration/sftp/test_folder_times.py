"""Folders have the times of those that they come from, once all is in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncworker.sftp import BulkReport, SFTPPool, download, upload
from tests.integration.sftp.conftest import Folders, pool_of
from tests.servers.sftp import SFTPServer, TidyFiles, running_sftp_server
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer

BEGIN = 1_500_000_000


def make_tree(root: Path) -> dict[str, int]:
    """Folders with files, one without any; returns their times."""
    for number in range(5):
        (root / "a" / f"{number}").mkdir(parents=True)
        (root / "a" / f"{number}" / "file").write_text("x")
    (root / "empty").mkdir()
    return set_times(root)


def set_times(root: Path) -> dict[str, int]:
    found = {}
    for number, path in enumerate(sorted(path for path in root.rglob("*") if path.is_dir())):
        os.utime(path, (BEGIN + number, BEGIN + number))
        found[os.path.relpath(path, root)] = BEGIN + number
    return found


def times_of(root: Path) -> dict[str, int]:
    return {os.path.relpath(path, root): int(path.stat().st_mtime) for path in root.rglob("*") if path.is_dir()}


async def move(direction: str, pool: SFTPPool, folders: Folders, **options: Any) -> BulkReport:
    if direction == "download":
        return await download(pool, folders.remote, folders.local, **options)
    return await upload(pool, folders.local, folders.remote, **options)


@pytest.fixture(params=["download", "upload"])
def direction(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


async def test_folders_keep_their_times(any_server: Server, folders: Folders, direction: str) -> None:
    source, goal = (folders.remote, folders.local) if direction == "download" else (folders.local, folders.remote)
    times = make_tree(source)
    before = int(goal.stat().st_mtime)
    async with pool_of(any_server) as pool:
        report = await move(direction, pool, folders)
        assert (report.ok, report.warnings) == (True, ())
        assert times_of(goal) == times
        assert int(goal.stat().st_mtime) >= before  # the folder that the caller has named is his own affair
        (source / "a" / "1" / "more").write_text("x")
        (source / "a" / "new").mkdir()
        times = set_times(source)
        assert (await move(direction, pool, folders)).ok
        assert times_of(goal) == times


async def test_left_alone_where_that_is_asked_for(sshd: Sshd, folders: Folders, direction: str) -> None:
    source, goal = (folders.remote, folders.local) if direction == "download" else (folders.local, folders.remote)
    times = make_tree(source)
    async with pool_of(sshd) as pool:
        assert (await move(direction, pool, folders, folder_times=False)).ok
        assert not set(times_of(goal).values()) & set(times.values())


class Deaf(TidyFiles):
    """Counts who asks for times, and lets nobody set them on a folder."""

    asked: list[bytes]
    refuses = False

    def setstat(self, path: bytes, attrs: Any) -> None:
        self.asked.append(path)
        if self.refuses:
            raise PermissionError(13, "Permission denied")
        super().setstat(path, attrs)


def deaf(folder: Path, refuses: bool) -> Iterator[tuple[SFTPServer, list[bytes]]]:
    asked: list[bytes] = []
    factory: Any = type("Deaf", (Deaf,), {"asked": asked, "refuses": refuses})
    with running_sftp_server(folder, sftp_factory=factory) as server:
        yield server, asked


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[tuple[SFTPServer, list[bytes]]]:
    yield from deaf(tmp_path / "server", False)


@pytest.fixture
def refusing(tmp_path: Path) -> Iterator[tuple[SFTPServer, list[bytes]]]:
    yield from deaf(tmp_path / "server", True)


async def test_nothing_is_asked_where_nothing_changed(
    counting: tuple[SFTPServer, list[bytes]], folders: Folders
) -> None:
    server, asked = counting
    make_tree(folders.local)
    async with pool_of(server) as pool:
        await upload(pool, folders.local, folders.remote)
        assert len(set(asked)) == 7
        asked.clear()
        await upload(pool, folders.local, folders.remote)
        assert asked == []
        (folders.local / "a" / "1" / "file").write_text("longer")
        os.utime(folders.local / "a" / "1", (BEGIN, BEGIN))
        await upload(pool, folders.local, folders.remote, exclude="2/")
        assert asked == [os.fsencode(folders.remote / "a" / "1")]


async def test_a_server_that_lets_nobody_set_them_is_a_warning(
    refusing: tuple[SFTPServer, list[bytes]], folders: Folders
) -> None:
    server, _ = refusing
    make_tree(folders.local)
    async with pool_of(server) as pool:
        report = await upload(pool, folders.local, folders.remote)
    assert report.ok
    assert any("the time of a folder could not be set, and 6 others" in warning for warning in report.warnings)
