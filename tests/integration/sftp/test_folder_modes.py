"""A folder that is made has the permissions of the one that it comes from, in both directions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncworker.sftp import download, upload
from tests.integration.sftp.conftest import Folders, pool_of
from tests.integration.sftp.test_get import settled
from tests.servers.sftp import SFTPServer
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer
MODES = {".": 0o700, "private": 0o700, "private/deeper": 0o750, "shared": 0o755, "closed": 0o500, "closed/empty": 0o711}
#: The owner may always write: files follow.
MADE = {name: mode | 0o700 for name, mode in MODES.items()}


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def make(root: Path) -> None:
    for name in MODES:
        folder = root / name
        folder.mkdir(exist_ok=True)
        if name != "closed/empty":
            (folder / "file").write_bytes(b"x")
    for name, mode in reversed(MODES.items()):
        (root / name).chmod(mode)


def modes(root: Path, names: list[str] | None = None) -> dict[str, int]:
    return {name: (root / name).stat().st_mode & 0o777 for name in names or MODES}


HOW: list[dict[str, Any]] = [{}, {"include": "file"}, {"fsync": True}, {"skip": "never"}]


@pytest.mark.parametrize("how", HOW, ids=str)
async def test_downloaded_folders(any_server: Server, folders: Folders, how: dict[str, Any]) -> None:
    make(folders.remote)
    goal = folders.local / "new" / "goal"
    async with pool_of(any_server) as pool:
        (await download(pool, folders.remote, goal, **how)).raise_for_errors()
        assert await settled(pool)
    wanted = MADE if "include" not in how else {name: mode for name, mode in MADE.items() if name != "closed/empty"}
    assert modes(goal, list(wanted)) == wanted
    (folders.remote / "closed").chmod(0o700)


@pytest.mark.parametrize("how", HOW, ids=str)
async def test_uploaded_folders(any_server: Server, folders: Folders, how: dict[str, Any]) -> None:
    make(folders.local)
    goal = folders.remote / "new" / "goal"
    async with pool_of(any_server) as pool:
        (await upload(pool, folders.local, goal, **how)).raise_for_errors()
        assert await settled(pool)
    wanted = MADE if "include" not in how else {name: mode for name, mode in MADE.items() if name != "closed/empty"}
    assert modes(goal, list(wanted)) == wanted
    (folders.local / "closed").chmod(0o700)


async def test_folders_on_the_way_to_the_only_file(sshd: Sshd, folders: Folders) -> None:
    for root in (folders.local, folders.remote):
        (root / "a" / "b" / "c").mkdir(parents=True)
        (root / "a" / "b" / "c" / "wanted.xml").write_bytes(b"x")
        (root / "a").chmod(0o700)
        (root / "a" / "b").chmod(0o750)
        (root / "a" / "b" / "c").chmod(0o700)
    expected = {"a": 0o700, "a/b": 0o750, "a/b/c": 0o700}
    async with pool_of(sshd) as pool:
        (await download(pool, folders.remote, folders.local / "down", include="*.xml")).raise_for_errors()
        (await upload(pool, folders.local / "a", folders.remote / "up" / "a", include="*.xml")).raise_for_errors()
        (await download(pool, folders.remote, folders.local / "named", paths=["a/b/c/wanted.xml"])).raise_for_errors()
        (await upload(pool, folders.local, folders.remote / "sent", paths=["a/b/c/wanted.xml"])).raise_for_errors()
    assert modes(folders.local / "down", list(expected)) == expected
    assert modes(folders.remote / "up", list(expected)) == expected
    assert modes(folders.local / "named", list(expected)) == expected
    assert modes(folders.remote / "sent", list(expected)) == expected


async def test_several_folders_at_once(sshd: Sshd, folders: Folders) -> None:
    for root in (folders.local, folders.remote):
        for name, mode in (("one", 0o700), ("two", 0o750)):
            (root / name).mkdir()
            (root / name / "file").write_bytes(b"x")
            (root / name).chmod(mode)
    async with pool_of(sshd) as pool:
        remotes = [str(folders.remote / name) for name in ("one", "two")]
        (await download(pool, remotes, folders.local / "down")).raise_for_errors()
        locals_ = [str(folders.local / name) for name in ("one", "two")]
        (await upload(pool, locals_, folders.remote / "up")).raise_for_errors()
    for made in (folders.local / "down", folders.remote / "up"):
        assert modes(made, ["one", "two"]) == {"one": 0o700, "two": 0o750}


async def test_a_folder_that_exists_keeps_its_permissions(sshd: Sshd, folders: Folders) -> None:
    make(folders.remote)
    (folders.local / "private").mkdir(mode=0o751)
    (folders.local / "private").chmod(0o751)
    async with pool_of(sshd) as pool:
        (await download(pool, folders.remote, folders.local)).raise_for_errors()
    assert modes(folders.local, ["private"]) == {"private": 0o751}
