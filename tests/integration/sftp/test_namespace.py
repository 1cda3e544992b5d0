"""Names on the server: made, moved, removed, walked."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncworker.errors import SFTPError, SFTPFileNotFound
from asyncworker.sftp import SFTPPool
from tests.integration.sftp.conftest import Folders, pool_of
from tests.servers.sftp import SFTPServer
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer


async def test_folders(any_server: Server, folders: Folders) -> None:
    deep = folders.remote / "a" / "b" / "c"
    async with pool_of(any_server) as pool:
        with pytest.raises(SFTPFileNotFound, match=str(deep)):
            await pool.mkdir(deep)
        await pool.mkdir(deep, parents=True)
        assert deep.is_dir()
        with pytest.raises(SFTPError, match=str(deep)):
            await pool.mkdir(deep)
        await pool.mkdir(deep, exist_ok=True, parents=True)
        folders.make("file", b"")
        with pytest.raises(SFTPError, match="file"):
            await pool.mkdir(folders.remote / "file", exist_ok=True)
        with pytest.raises(SFTPError):
            await pool.rmdir(folders.remote / "a")
        await pool.rmdir(deep)
        assert not deep.exists()
        with pytest.raises(SFTPFileNotFound):
            await pool.rmdir(deep)


async def test_rename(any_server: Server, folders: Folders) -> None:
    old, new = Path(folders.make("old", b"old")), Path(folders.make("new", b"new"))
    async with pool_of(any_server) as pool:
        with pytest.raises(SFTPError, match="new"):
            await pool.rename(old, new)
        assert (old.read_bytes(), new.read_bytes()) == (b"old", b"new")
        await pool.rename(old, new, replace=True)
        assert (old.exists(), new.read_bytes()) == (False, b"old")
        await pool.rename(new, old)
        assert (new.exists(), old.read_bytes()) == (False, b"old")
        with pytest.raises(SFTPFileNotFound):
            await pool.rename(new, old, replace=True)
        with pytest.raises(SFTPFileNotFound):
            await pool.rename(old, folders.remote / "not" / "there", replace=True)
    assert old.read_bytes() == b"old"


async def test_remove(any_server: Server, folders: Folders) -> None:
    path = folders.make("a", b"")
    async with pool_of(any_server) as pool:
        await pool.remove(path)
        with pytest.raises(SFTPFileNotFound, match=path):
            await pool.remove(path)
        await pool.remove(path, missing_ok=True)
        with pytest.raises(SFTPError):
            await pool.remove(folders.remote)
    assert folders.remote.is_dir()


def make_tree(folders: Folders) -> set[str]:
    found = set()
    for a in range(5):
        for b in range(5):
            folder = folders.remote / f"{a}" / f"{b}"
            folder.mkdir(parents=True)
            found.add(f"{a}/{b}")
            for c in range(5):
                (folder / f"{c}.xml").touch()
                found.add(f"{a}/{b}/{c}.xml")
        found.add(f"{a}")
    (folders.remote / "link").symlink_to(folders.remote)
    return found | {"link"}


async def walked(pool: SFTPPool, folders: Folders, **options: object) -> set[str]:
    start = len(str(folders.remote)) + 1
    paths = [entry.path[start:] async for entry in pool.walk(folders.remote, **options)]  # type: ignore[arg-type]
    assert len(paths) == len(set(paths))
    return set(paths)


async def test_walk(server: Server, folders: Folders, sftp_pool: SFTPPool) -> None:
    tree = make_tree(folders)
    assert await walked(sftp_pool, folders) == tree
    assert await walked(sftp_pool, folders, max_depth=0) == {path for path in tree if "/" not in path}
    assert await walked(sftp_pool, folders, max_depth=1) == {path for path in tree if path.count("/") < 2}
    without = await walked(sftp_pool, folders, enter=lambda entry: entry.name != "3")
    assert without == {path for path in tree if "3" not in path.split("/")[:-1]}


async def test_a_walk_that_is_left_early_gives_all_places_back(
    server: Server, folders: Folders, sftp_pool: SFTPPool
) -> None:
    make_tree(folders)
    for taken in (1, 2, 20):
        walk = sftp_pool.walk(folders.remote)
        for _ in range(taken):
            await anext(walk)
        await walk.aclose()
    assert len(await walked(sftp_pool, folders)) == 156


async def test_a_folder_that_cannot_be_listed(sshd: Sshd, folders: Folders) -> None:
    (folders.remote / "a").mkdir()
    async with pool_of(sshd) as pool:
        with pytest.raises(SFTPFileNotFound, match="missing"):
            [entry async for entry in pool.walk(folders.remote / "missing")]
        errors: list[tuple[str, SFTPError]] = []
        missing = str(folders.remote / "missing")
        found = [e async for e in pool.walk(missing, on_error=lambda path, error: errors.append((path, error)))]
        assert found == []
        assert [(path, type(error)) for path, error in errors] == [(missing, SFTPFileNotFound)]
