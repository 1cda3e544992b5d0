"""One folder made like another one, in either direction."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

import pytest

from asyncworker.errors import SettingsError, SFTPDeleteRefused, SFTPError
from asyncworker.sftp import BulkReport, FileResult, SFTPPool, sync
from tests.integration.sftp.conftest import Folders, pool_of, pool_on
from tests.servers.sftp import SFTPServer
from tests.servers.sftp_hostile import FAILURE, PERMISSION_DENIED, Hostile, Request, Stat, without_attributes
from tests.servers.sshd import Sshd

Direction = Literal["down", "up"]
Server = Sshd | SFTPServer

KEPT = "nothing was deleted: not everything could be listed and moved"


@pytest.fixture(params=["down", "up"])
def direction(request: pytest.FixtureRequest) -> Direction:
    found: Direction = request.param
    return found


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(os.fsencode(name))
            os.utime(path, (1.5e9, 1.5e9))


def tree(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder)) + "/" * (path.is_dir() and not path.is_symlink()) for path in folder.rglob("*")
    }


def half_way(folder: bytes) -> Callable[[Request], int | None]:
    """Let all but the first READDIR of a folder fail."""
    asked = count()
    return lambda request: (
        FAILURE if request.kind == "READDIR" and request.path == folder and next(asked) >= 1 else None
    )


async def mirror(pool: SFTPPool, direction: Direction, folders: Folders, **options: Any) -> BulkReport:
    """From the folder ``remote`` to the folder ``local``, whichever of them is reached over SFTP."""
    if direction == "down":
        return await sync((pool, folders.remote), folders.local, **options)
    return await sync(folders.remote, (pool, folders.local), **options)


async def test_the_destination_becomes_like_the_source(
    any_server: Server, folders: Folders, direction: Direction
) -> None:
    make(folders.remote, "a", "s/b", "s/deep/c", "empty/")
    make(folders.local, "a", "s/old", "gone/x/y", "gone/z", "t")
    done: list[FileResult] = []
    async with pool_of(any_server) as pool:
        report = await mirror(pool, direction, folders)
        assert report.files_deleted == 0
        assert "gone/z" in tree(folders.local)
        report = await mirror(pool, direction, folders, delete=True, on_file=done.append)
        assert report.ok, report.errors
        assert (report.files_done, report.files_deleted) == (0, 6)
        assert {result.outcome for result in done} == {"deleted"}
        assert tree(folders.local) == tree(folders.remote)
        again = await mirror(pool, direction, folders, delete=True)
        assert (again.files_done, again.files_deleted, again.ok) == (0, 0, True)


async def test_a_dry_run_shows_what_would_be_deleted(sshd: Server, folders: Folders, direction: Direction) -> None:
    make(folders.remote, "a", "b")
    make(folders.local, "a", "old/x")
    before, done = tree(folders.local), list[FileResult]()
    async with pool_of(sshd) as pool:
        report = await mirror(pool, direction, folders, delete=True, dry_run=True, on_file=done.append)
    assert tree(folders.local) == before
    assert report.files_deleted == 2
    shown = {((result.remote or result.local).removeprefix(f"{folders.local}/"), result.outcome) for result in done}
    assert {("old/x", "would_delete"), ("old", "would_delete")} < shown
    assert len(done) == 3


@pytest.mark.promise("sftp-mirror-keeps-what-is-filtered")
async def test_what_a_filter_leaves_out_is_protected(sshd: Server, folders: Folders, direction: Direction) -> None:
    make(folders.remote, "a.xml", "s/b.xml", "s/c.tmp")
    make(folders.local, "old.xml", "keep.tmp", "cache/x", "gone/y.xml", "gone/z.tmp")
    rules = {"exclude": ["*.tmp", "cache/"]}
    async with pool_of(sshd) as pool:
        report = await mirror(pool, direction, folders, delete=True, **rules)
        assert report.ok, report.errors
        kept = {"keep.tmp", "cache/", "cache/x", "gone/", "gone/z.tmp"}
        assert tree(folders.local) == {"a.xml", "s/", "s/b.xml"} | kept
        report = await mirror(pool, direction, folders, delete=True, include="*.xml")
        assert tree(folders.local) == {"a.xml", "s/", "s/b.xml"} | kept
        report = await mirror(pool, direction, folders, delete=True, delete_excluded=True, **rules)
        assert report.ok, report.errors
        assert tree(folders.local) == {"a.xml", "s/", "s/b.xml"}


async def test_sizes_and_ages_protect_what_the_source_has(sshd: Server, folders: Folders, direction: Direction) -> None:
    make(folders.remote, "a", "a longer name")
    make(folders.local, "a longer name", "b")
    async with pool_of(sshd) as pool:
        report = await mirror(pool, direction, folders, delete=True, max_size_bytes=3)
    assert report.ok, report.errors
    assert tree(folders.local) == {"a", "a longer name"}


@pytest.mark.promise("sftp-mirror-keeps-what-is-filtered")
async def test_an_empty_source_deletes_nothing_unless_forced(
    sshd: Server, folders: Folders, direction: Direction
) -> None:
    make(folders.remote, "empty/")
    make(folders.local, "a", "s/b")
    async with pool_of(sshd) as pool:
        report = await mirror(pool, direction, folders, delete=True)
        assert isinstance(report.errors[0].error, SFTPDeleteRefused)
        assert "no files" in str(report.errors[0].error)
        assert tree(folders.local) == {"a", "s/", "s/b", "empty/"}
        report = await mirror(pool, direction, folders, delete=True, force=True)
        assert report.ok, report.errors
        assert tree(folders.local) == {"empty/"}


async def test_no_more_than_so_many_are_deleted(sshd: Server, folders: Folders, direction: Direction) -> None:
    make(folders.remote, "a")
    make(folders.local, "x", "y", "z/")
    async with pool_of(sshd) as pool:
        for dry_run in (True, False):
            report = await mirror(pool, direction, folders, delete=True, max_delete=2, dry_run=dry_run)
            assert isinstance(report.errors[0].error, SFTPDeleteRefused)
            assert report.files_deleted == 0
        assert tree(folders.local) == {"a", "x", "y", "z/"}
        report = await mirror(pool, direction, folders, delete=True, max_delete=3)
        assert report.ok, report.errors
        assert tree(folders.local) == {"a"}


async def test_nothing_is_deleted_where_a_local_folder_cannot_be_listed(sshd: Server, folders: Folders) -> None:
    make(folders.remote, "a")
    make(folders.local, "old")
    # Deeper than a path may be long: not even root can list the last ones by their path.
    folder = os.open(folders.remote, os.O_RDONLY)
    for _ in range(18):
        os.mkdir("x" * 250, dir_fd=folder)
        below = os.open("x" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    async with pool_of(sshd) as pool:
        report = await mirror(pool, "up", folders, delete=True)
    assert not report.ok
    assert report.warnings == (KEPT,)
    assert {"a", "old"} <= {path.name for path in folders.local.iterdir()}


@pytest.mark.parametrize(
    "switches",
    [
        pytest.param({"deny": (b"/in/secret",)}, id="denied"),
        pytest.param(
            {
                "names_per_answer": 1,
                "refuse_if": half_way(b"/in/secret"),
            },
            id="failing-half-way",
        ),
        pytest.param({"claim": without_attributes("READDIR"), "refuse": {"LSTAT": PERMISSION_DENIED}}, id="unknown"),
    ],
)
@pytest.mark.promise("sftp-mirror-deletes-nothing-after-an-error")
async def test_nothing_is_deleted_where_a_folder_of_the_server_cannot_be_listed(
    folders: Folders, switches: dict[str, Any]
) -> None:
    hostile = Hostile(**switches)
    for name in ("a", "b", "secret/c", "secret/d"):
        hostile.tree.write(f"/in/{name}", b"x")
    make(folders.local, "secret/c", "secret/d", "secret/e", "old", "b")
    async with pool_on(hostile, folders.remote) as pool:
        try:
            report = await sync((pool, "/in"), folders.local, delete=True)
            assert not report.ok
            assert report.files_deleted == 0
        except SFTPError:
            pass  # the first folder of all
    assert {"secret/c", "secret/d", "secret/e", "old", "b"} <= tree(folders.local)


@pytest.mark.promise("sftp-mirror-deletes-nothing-after-an-error")
async def test_nothing_is_deleted_where_the_destination_cannot_be_listed(folders: Folders) -> None:
    hostile = Hostile(deny=(b"/out/secret",))
    for name in ("old", "secret/c"):
        hostile.tree.write(f"/out/{name}", b"x")
    make(folders.remote, "a")
    async with pool_on(hostile, folders.remote.parent / "server") as pool:
        report = await sync(folders.remote, (pool, "/out"), delete=True)
    assert not report.ok
    assert report.files_deleted == 0
    assert hostile.count("REMOVE", "RMDIR") == 0
    assert hostile.tree.exists("/out/old")


async def test_a_link_that_a_server_passes_off_as_a_folder_is_not_followed(folders: Folders) -> None:
    def claim(kind: str, path: bytes, told: Stat) -> Stat:
        return replace(told, mode=0o40755) if kind == "READDIR" and path.endswith(b"/link") else told

    hostile = Hostile(claim=claim)
    hostile.tree.write("/outside/x", b"x")
    hostile.tree.write("/out/a", b"x")
    hostile.tree.symlink("/out/link", "/outside")
    make(folders.remote, "a")
    async with pool_on(hostile, folders.remote.parent / "server") as pool:
        report = await sync(folders.remote, (pool, "/out"), delete=True)
    assert not report.ok
    assert hostile.tree.exists("/outside/x")


async def test_what_cannot_be_deleted_is_an_error_and_the_rest_goes(folders: Folders) -> None:
    hostile = Hostile(refuse_if=lambda request: PERMISSION_DENIED if request.path == b"/out/old/x" else None)
    for name in ("old/x", "old/y", "z"):
        hostile.tree.write(f"/out/{name}", b"x")
    make(folders.remote, "a")
    async with pool_on(hostile, folders.remote.parent / "server") as pool:
        report = await sync(folders.remote, (pool, "/out"), delete=True)
    assert sorted(result.remote for result in report.errors) == ["/out/old", "/out/old/x"]
    assert report.files_deleted == 2
    assert set(hostile.tree.files("/out")) == {"/out/a", "/out/old/x"}


@pytest.mark.promise("sftp-mirror-deletes-nothing-after-an-error")
async def test_nothing_is_deleted_where_a_file_fails(sshd: Server, folders: Folders, direction: Direction) -> None:
    make(folders.remote, "a", "b")
    make(folders.local, "b/in the way", "old")
    async with pool_of(sshd) as pool:
        report = await mirror(pool, direction, folders, delete=True)
        assert report.files_failed == 1
        assert report.warnings == (KEPT,)
        assert {"a", "b/", "b/in the way", "old"} <= tree(folders.local)
        report = await mirror(pool, direction, folders, delete=True, force=True, max_delete=2)
        assert not report.ok  # two that are in the way, and the old one
        assert "old" in tree(folders.local)
        report = await mirror(pool, direction, folders, delete=True, force=True)
        assert report.ok, report.errors
    assert tree(folders.local) == {"a", "b"}


async def test_a_folder_takes_the_place_of_a_file_by_force(
    sshd: Server, folders: Folders, direction: Direction
) -> None:
    make(folders.remote, "a/b")
    make(folders.local, "a")
    async with pool_of(sshd) as pool:
        assert not (await mirror(pool, direction, folders)).ok
        assert tree(folders.local) == {"a"}
        assert not (await mirror(pool, direction, folders, force=True, exclude="a")).files_deleted
        report = await mirror(pool, direction, folders, force=True, dry_run=True)
        assert tree(folders.local) == {"a"}
        assert report.files_deleted == 1
        report = await mirror(pool, direction, folders, force=True)
    assert report.ok, report.errors
    assert tree(folders.local) == {"a/", "a/b"}


async def test_links_are_deleted_and_never_followed(
    any_server: Server, folders: Folders, direction: Direction, tmp_path: Path
) -> None:
    make(tmp_path / "outside", "x", "sub/y")
    make(folders.remote, "a", "there/z")
    make(folders.local, "old/")
    (folders.local / "old" / "link").symlink_to(tmp_path / "outside")
    (folders.local / "link").symlink_to(tmp_path / "outside")
    (folders.local / "file").symlink_to(tmp_path / "outside" / "x")
    async with pool_of(any_server) as pool:
        report = await mirror(pool, direction, folders, delete=True)
    assert report.ok, report.errors
    assert tree(folders.local) == {"a", "there/", "there/z"}
    assert tree(tmp_path / "outside") == {"x", "sub/", "sub/y"}


async def test_a_link_in_the_place_of_a_folder_leads_no_deletion_out(
    any_server: Server, folders: Folders, direction: Direction, tmp_path: Path
) -> None:
    make(tmp_path / "outside", "x")
    make(folders.remote, "s/")
    make(folders.remote, "a")
    (folders.local / "s").symlink_to(tmp_path / "outside")
    async with pool_of(any_server) as pool:
        for force in (False, True):
            await mirror(pool, direction, folders, delete=True, force=force)
            assert tree(tmp_path / "outside") == {"x"}


async def test_odd_names_are_deleted(sshd: Server, folders: Folders, direction: Direction) -> None:
    make(folders.remote, "a")
    make(folders.local, "new\nline", "back\\slash", "bad\nfolder/x", os.fsdecode(b"\xff"))
    async with pool_of(sshd) as pool:
        report = await mirror(pool, direction, folders, delete=True)
    assert report.ok, report.errors
    assert tree(folders.local) == {"a"}


async def test_links_at_the_source_keep_what_has_their_name(
    sshd: Server, folders: Folders, direction: Direction
) -> None:
    make(folders.remote, "a")
    (folders.remote / "link").symlink_to("a")
    make(folders.local, "link")
    async with pool_of(sshd) as pool:
        report = await mirror(pool, direction, folders, delete=True)
    assert report.ok, report.errors
    assert tree(folders.local) == {"a", "link"}


async def test_folders_keep_their_times_when_something_in_them_is_deleted(
    sshd: Server, folders: Folders, direction: Direction
) -> None:
    make(folders.remote, "a", "s/b")
    os.utime(folders.remote / "s", (1.2e9, 1.2e9))
    make(folders.local, "s/old")
    async with pool_of(sshd) as pool:
        report = await mirror(pool, direction, folders, delete=True)
    assert report.ok, report.errors
    assert tree(folders.local) == {"a", "s/", "s/b"}
    assert (folders.local / "s").stat().st_mtime == 1.2e9


async def test_it_stops_after_so_many_failed_deletions(folders: Folders) -> None:
    hostile = Hostile(refuse={"REMOVE": PERMISSION_DENIED})
    for number in range(300):
        hostile.tree.write(f"/out/{number}", b"x")
    make(folders.remote, "a")
    async with pool_on(hostile, folders.remote.parent / "server") as pool:
        report = await sync(folders.remote, (pool, "/out"), delete=True, max_failures=2)
    assert report.stopped == "stopped after 3 failures"
    assert hostile.count("REMOVE") < 300


async def test_what_makes_no_sense_is_refused(sshd: Server, folders: Folders, tmp_path: Path) -> None:
    make(folders.remote, "a")
    async with pool_of(sshd) as pool:
        with pytest.raises(SettingsError, match="one folder here and one on a server"):
            await sync(folders.remote, folders.local)
        with pytest.raises(SettingsError, match="one folder here and one on a server"):
            await sync((pool, "/a"), "sftp://host/b")
        for options in ({"paths": ["a"]}, {"max_depth": 1}, {"recursive": False}):
            with pytest.raises(SettingsError, match="all of the source"):
                await sync((pool, folders.remote), folders.local, delete=True, **options)  # type: ignore[arg-type]
        with pytest.raises(SettingsError, match="needs delete"):
            await sync((pool, folders.remote), folders.local, delete_excluded=True)
        with pytest.raises(SettingsError, match="max_delete"):
            await sync((pool, folders.remote), folders.local, delete=True, max_delete=-1)
        with pytest.raises(SettingsError, match="check_space"):
            await sync((pool, folders.remote), folders.local, check_space=False)
        with pytest.raises(SettingsError, match="for folders"):
            await sync((pool, folders.remote / "a"), folders.local)
        with pytest.raises(SettingsError, match="for folders"):
            await sync(folders.remote / "a", (pool, folders.local))
        with pytest.raises(FileNotFoundError):
            await sync(tmp_path / "gone", (pool, folders.local))
    assert tree(folders.local) == set()
