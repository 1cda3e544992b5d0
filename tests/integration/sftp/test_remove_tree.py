"""Whole trees removed from a server: all of what is meant, nothing of what links lead to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncworker.errors import ItemErrors, SFTPError, SFTPFileNotFound
from tests.integration.sftp.conftest import Folders, pool_of, pool_on
from tests.servers.sftp import SFTPServer, TidyFiles, running_sftp_server
from tests.servers.sftp_hostile import FAILURE, PERMISSION_DENIED, Hostile, without_attributes, without_type_bits
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer


def make_tree(folders: Folders) -> Path:
    """A tree of 3 + 9 + 81 paths, a link out of it to a folder that must stay, and an empty folder."""
    root = folders.remote / "tree"
    for a in range(3):
        for b in range(3):
            (root / f"{a}" / f"{b}").mkdir(parents=True)
            for c in range(9):
                (root / f"{a}" / f"{b}" / f"{c}.xml").touch()
    (folders.remote / "outside").mkdir()
    (folders.remote / "outside" / "precious").touch()
    (root / "0" / "link").symlink_to(folders.remote / "outside")
    (root / "1" / "dangling").symlink_to("nowhere")
    (root / "empty").mkdir()
    return root


async def test_names_that_could_not_be_written_locally_are_removed(server: Server, folders: Folders) -> None:
    root = folders.remote / "tree"
    for name in ("back\\slash", "new\nline", "escape\x1b[2J", os.fsdecode(b"latin \xe9"), "-rf", "~", "*", " "):
        (root / name).mkdir(parents=True)
        (root / name / name).touch()
    async with pool_of(server) as pool:
        assert await pool.remove_tree(root) == 17
    assert list(folders.remote.iterdir()) == []


@pytest.mark.promise("sftp-removes-never-through-a-link")
async def test_a_tree_goes_and_what_its_links_lead_to_stays(any_server: Server, folders: Folders) -> None:
    root = make_tree(folders)
    removed: list[str] = []
    async with pool_of(any_server) as pool:
        assert await pool.remove_tree(root, on_removed=removed.append) == 1 + 3 + 9 + 81 + 3
        with pytest.raises(SFTPFileNotFound, match="tree"):
            await pool.remove_tree(root)
        assert await pool.remove_tree(root, missing_ok=True) == 0
    assert len(set(removed)) == len(removed) == 97
    assert removed[-1] == str(root)
    assert removed.index(f"{root}/0/0") > max(removed.index(f"{root}/0/0/{c}.xml") for c in range(9))
    assert [path.name for path in folders.remote.iterdir()] == ["outside"]
    assert (folders.remote / "outside" / "precious").exists()


@pytest.mark.parametrize("slashes", ["", "/", "//"])
async def test_a_link_is_removed_itself(any_server: Server, folders: Folders, slashes: str) -> None:
    make_tree(folders)
    link = folders.remote / "link"
    link.symlink_to("outside")
    async with pool_of(any_server) as pool:
        assert await pool.remove_tree(f"{link}{slashes}") == 1
    assert not link.is_symlink()
    assert (folders.remote / "outside" / "precious").exists()


async def test_paths_that_could_mean_the_home_are_refused(sshd: Sshd, folders: Folders) -> None:
    async with pool_of(sshd) as pool:
        for path in ("", ".", "..", f"{folders.remote}/.", f"{folders.remote}/..", "./"):
            with pytest.raises(ValueError, match="refused"):
                await pool.remove_tree(path)
    assert folders.remote.exists()


class Stubborn(TidyFiles):
    """Refuses to remove files that are named so, and to list folders that are."""

    def remove(self, path: bytes) -> Any:
        if path.endswith(b"stubborn"):
            raise PermissionError(13, "Permission denied")
        return super().remove(path)

    def scandir(self, path: bytes) -> AsyncIterator[Any]:
        if path.endswith(b"secret"):
            raise PermissionError(13, "Permission denied")
        return super().scandir(path)


@pytest.fixture(scope="module")
def stubborn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SFTPServer]:
    with running_sftp_server(tmp_path_factory.mktemp("stubborn"), sftp_factory=Stubborn) as server:
        yield server


async def test_what_cannot_be_removed_is_reported_and_the_rest_goes(stubborn: SFTPServer, folders: Folders) -> None:
    root = make_tree(folders)
    (root / "0" / "0" / "stubborn").touch()
    (root / "1" / "secret").mkdir()
    (root / "1" / "secret" / "file").touch()
    (root / "2" / "secret").mkdir()  # it is empty: that it cannot be listed does not matter
    errors: list[tuple[str, SFTPError]] = []
    async with pool_of(stubborn) as pool:
        await pool.remove_tree(root, on_error=lambda path, error: errors.append((path, error)))
        assert sorted(path for path, _ in errors) == [f"{root}/0/0/stubborn", f"{root}/1/secret"]
        with pytest.raises(ItemErrors, match="2 paths could not be removed"):
            await pool.remove_tree(root)
    left = sorted(os.path.relpath(path, root) for path in root.rglob("*"))
    assert left == ["0", "0/0", "0/0/stubborn", "1", "1/secret", "1/secret/file"]


async def test_it_can_be_cancelled(server: Server, folders: Folders) -> None:
    root = make_tree(folders)
    async with pool_of(server) as pool:

        def stop(_: str) -> None:
            raise RuntimeError("enough")

        with pytest.raises(RuntimeError, match="enough"):
            await pool.remove_tree(root, on_removed=stop)
        await pool.remove_tree(root)
    assert not root.exists()


@pytest.mark.parametrize(
    "switches",
    [
        pytest.param({}, id="well-behaved"),
        pytest.param({"names_per_answer": 1, "empty_answers": 2, "dots": True}, id="one-name-an-answer"),
        pytest.param({"claim": without_attributes("READDIR")}, id="no-attributes"),
        pytest.param({"claim": without_type_bits("READDIR")}, id="no-type-bits"),
        pytest.param({"most_handles": 3, "limits": (262_144, 32_768, 32_768, 3)}, id="three-handles"),
    ],
)
async def test_servers_that_say_little(folders: Folders, switches: dict[str, Any]) -> None:
    hostile = Hostile(**switches)
    for folder in ("", "sub/", "sub/deep/", "other/"):
        for number in range(7):
            hostile.tree.write(f"/in/{folder}{number}", b"x")
    hostile.tree.write("/precious", b"x")
    async with pool_on(hostile, folders.remote) as pool:
        await pool.remove_tree("/in")
        assert not await pool.exists("/in")
        assert await pool.exists("/precious")


@pytest.mark.parametrize(
    "switches",
    [
        pytest.param({"bottomless": True}, id="no-bottom"),
        pytest.param({"repeat": True}, id="no-end"),
        pytest.param({"lie": ("REMOVE", "RMDIR")}, id="ok-and-nothing-done"),
        pytest.param({"refuse": {"REMOVE": PERMISSION_DENIED}}, id="no-remove"),
        pytest.param({"refuse": {"RMDIR": FAILURE}}, id="no-rmdir"),
    ],
)
async def test_a_tree_that_never_goes_comes_to_an_end(folders: Folders, switches: dict[str, Any]) -> None:
    hostile = Hostile(**switches)
    for number in range(7):
        hostile.tree.write(f"/in/sub/{number}", b"x")
    async with pool_on(hostile, folders.remote) as pool:
        if "lie" in switches:
            await pool.remove_tree("/in")  # nobody can know
        else:
            with pytest.raises((SFTPError, ItemErrors)):
                await pool.remove_tree("/in")
