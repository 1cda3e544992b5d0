"""Files sent to servers that refuse what should follow, take files away, or have no room."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from asyncworker.errors import ItemErrors, SFTPError, SFTPNoSpace
from asyncworker.sftp import SFTPPool, sync, upload
from tests.integration.sftp.conftest import Folders, pool_on
from tests.integration.sftp.test_get import settled
from tests.servers.sftp_hostile import (
    FAILURE,
    NO_SUCH_FILE,
    PERMISSION_DENIED,
    UNSUPPORTED,
    Hostile,
)

MEGABYTE = 1024 * 1024
OLD, NEW, LARGE = b"the old file", random.Random(1).randbytes(100_000), random.Random(2).randbytes(33 * MEGABYTE)

Way = Callable[[SFTPPool, Path], Awaitable[Any]]


async def put(pool: SFTPPool, local: Path) -> None:
    await pool.put(local / "a", "/out/a")


async def put_many(pool: SFTPPool, local: Path) -> None:
    async for result in pool.put_many([(local / "a", "/out/a")]):
        if result.error is not None:
            raise result.error


async def upload_folder(pool: SFTPPool, local: Path) -> None:
    (await upload(pool, local, "/out")).raise_for_errors()


ways = pytest.mark.parametrize("way", [put, put_many, upload_folder])
contents = pytest.mark.parametrize("content", [NEW, pytest.param(LARGE, id="large")], ids=lambda _: "small")
codes = pytest.mark.parametrize(
    "code", [PERMISSION_DENIED, FAILURE, UNSUPPORTED], ids=["permission-denied", "failure", "unsupported"]
)


def ours(hostile: Hostile) -> dict[str, bytes]:
    return hostile.tree.files("/out")


# -- renames ---------------------------------------------------------------------------------------------------------


async def test_ok_that_is_a_lie_of_write_is_a_warning(folders: Folders) -> None:
    """Not every file is looked at again; one is."""
    hostile = Hostile(lie={"WRITE"})
    hostile.tree.write("/out/a", OLD)
    (folders.local / "a").write_bytes(NEW)
    async with pool_on(hostile, folders.remote) as pool:
        report = await upload(pool, folders.local, "/out")
        assert len(report.warnings) == 1
        assert "/out/a has" in report.warnings[0]
        assert f"{len(NEW):,} were sent" in report.warnings[0]


@ways
@contents
@codes
@pytest.mark.parametrize("old", [None, OLD], ids=["new-name", "over-a-file"])
@pytest.mark.parametrize(
    "without", [(), ("posix-rename",)], ids=["posix-rename-and-RENAME-refused", "no-posix-rename-and-RENAME-refused"]
)
async def test_a_refused_rename_destroys_nothing(
    folders: Folders, way: Way, content: bytes, code: int, old: bytes | None, without: tuple[str, ...]
) -> None:
    (folders.local / "a").write_bytes(content)
    hostile = Hostile(without=without, refuse={"RENAME": code, "posix-rename": code})
    hostile.tree.mkdir("/out")
    if old is not None:
        hostile.tree.write("/out/a", old)
    async with pool_on(hostile, folders.remote) as pool:
        with pytest.raises((SFTPError, ItemErrors)):
            await asyncio.wait_for(way(pool, folders.local), 100)
        assert await settled(pool)
        assert hostile.open_handles == []
    left = ours(hostile)
    if old is None:
        assert "/out/a" not in left
    else:
        assert left["/out/a"] == old
    assert all(name == "/out/a" or held in (content, content[: len(held)]) for name, held in left.items())


@ways
async def test_a_rename_that_is_refused_over_a_file_only(folders: Folders, way: Way) -> None:
    """As version 3 has it: the old file goes first, and neither is lost on the way."""
    (folders.local / "a").write_bytes(NEW)
    hostile = Hostile(without=("posix-rename",))
    hostile.tree.write("/out/a", OLD)
    async with pool_on(hostile, folders.remote) as pool:
        await way(pool, folders.local)
        assert await settled(pool)
    assert ours(hostile) == {"/out/a": NEW}


@codes
@pytest.mark.promise("sftp-mv-keeps-the-old-file-until-the-new-is-there")
async def test_rename_replace_that_is_refused_destroys_nothing(folders: Folders, code: int) -> None:
    hostile = Hostile(without=("posix-rename",), refuse={"RENAME": code})
    hostile.tree.write("/out/a", NEW)
    hostile.tree.write("/out/b", OLD)
    async with pool_on(hostile, folders.remote) as pool:
        with pytest.raises(SFTPError):
            await pool.rename("/out/a", "/out/b", replace=True)
    assert ours(hostile) == {"/out/a": NEW, "/out/b": OLD}


@pytest.mark.promise("sftp-mv-keeps-the-old-file-until-the-new-is-there")
async def test_rename_replace_keeps_the_old_file_where_the_new_one_cannot_take_its_name(folders: Folders) -> None:
    """Moving the old file aside works, the rename after it does not: the old one comes back."""
    hostile = Hostile(without=("posix-rename",))
    hostile.tree.write("/out/a", NEW)
    hostile.tree.write("/out/b", OLD)
    hostile.refuse_if = lambda request: FAILURE if request.kind == "RENAME" and request.path == b"/out/a" else None
    async with pool_on(hostile, folders.remote) as pool:
        with pytest.raises(SFTPError):
            await pool.rename("/out/a", "/out/b", replace=True)
    assert sorted(ours(hostile).values()) == sorted([NEW, OLD])
    assert ours(hostile)["/out/a"] == NEW


# -- attributes ------------------------------------------------------------------------------------------------------


@ways
@pytest.mark.parametrize("kind", ["SETSTAT", "FSETSTAT", "fsync", "STAT", "LSTAT", "FSTAT"])
@codes
async def test_a_refused_attribute_does_not_fail_the_file(folders: Folders, way: Way, kind: str, code: int) -> None:
    (folders.local / "a").write_bytes(NEW)
    hostile = Hostile(refuse={kind: code})
    hostile.tree.write("/out/old", OLD)
    async with pool_on(hostile, folders.remote) as pool:
        await way(pool, folders.local)
        assert await settled(pool)
        assert hostile.open_handles == []
    assert ours(hostile) == {"/out/a": NEW, "/out/old": OLD}


@codes
async def test_an_fsync_that_is_asked_for_and_refused_is_an_error(folders: Folders, code: int) -> None:
    (folders.local / "a").write_bytes(NEW)
    hostile = Hostile(refuse={"fsync": code})
    hostile.tree.write("/out/a", OLD)
    async with pool_on(hostile, folders.remote) as pool:
        with pytest.raises(SFTPError, match="flush"):
            await pool.put(folders.local / "a", "/out/a", fsync=True)
        assert await settled(pool)
    assert ours(hostile) == {"/out/a": OLD}


# -- room, and writing itself ----------------------------------------------------------------------------------------


@ways
@contents
async def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_else(
    folders: Folders, way: Way, content: bytes
) -> None:
    (folders.local / "a").write_bytes(content)
    hostile = Hostile(quota_bytes=len(OLD) + len(content) // 2)
    hostile.tree.write("/out/a", OLD)
    async with pool_on(hostile, folders.remote) as pool:
        with pytest.raises((SFTPError, ItemErrors)):
            await way(pool, folders.local)
        assert await settled(pool)
        assert hostile.open_handles == []
    assert ours(hostile)["/out/a"] == OLD


async def test_a_disk_that_is_said_to_be_full_gets_nothing(folders: Folders) -> None:
    (folders.local / "a").write_bytes(NEW)
    hostile = Hostile(statvfs=(4096, 4096, 1 << 20, 10, 10))
    hostile.tree.write("/out/b", OLD)
    async with pool_on(hostile, folders.remote) as pool:
        with pytest.raises(SFTPNoSpace):
            await upload(pool, folders.local, "/out")
        assert (await pool.statvfs("/out")).free_bytes == 40_960
    assert ours(hostile) == {"/out/b": OLD}
    assert hostile.count("OPEN", "WRITE") == 0


@ways
async def test_a_server_that_takes_small_writes_only_says_so_and_is_heard(folders: Folders, way: Way) -> None:
    (folders.local / "a").write_bytes(NEW)
    hostile = Hostile(limits=(34_000, 4096, 4096, 0), write_bytes=4096, read_bytes=4096)
    hostile.tree.mkdir("/out")
    async with pool_on(hostile, folders.remote) as pool:
        await way(pool, folders.local)
        assert await settled(pool)
    assert ours(hostile) == {"/out/a": NEW}
    assert max(request.length for request in hostile.of("WRITE")) <= 4096


@ways
async def test_a_server_that_names_no_limit_gets_no_write_beyond_the_drafts(folders: Folders, way: Way) -> None:
    (folders.local / "a").write_bytes(NEW)
    hostile = Hostile(without=("limits",), write_bytes=32_768)
    hostile.tree.mkdir("/out")
    async with pool_on(hostile, folders.remote) as pool:
        await way(pool, folders.local)
    assert ours(hostile) == {"/out/a": NEW}


@ways
async def test_a_server_that_takes_writes_in_order_only(folders: Folders, way: Way) -> None:
    (folders.local / "a").write_bytes(random.Random(3).randbytes(7 * MEGABYTE))
    hostile = Hostile(sequential_writes=True)
    hostile.tree.mkdir("/out")
    async with pool_on(hostile, folders.remote) as pool:
        await way(pool, folders.local)
    assert ours(hostile) == {"/out/a": (folders.local / "a").read_bytes()}


async def test_a_hot_folder_takes_each_file_at_its_close(folders: Folders) -> None:
    """Its temporary file is gone when it is to be renamed: an error, and no word of success."""
    (folders.local / "a").write_bytes(NEW)
    hostile = Hostile(taken_at_close={b"/out"})
    hostile.tree.mkdir("/out")
    async with pool_on(hostile, folders.remote) as pool:
        with pytest.raises(SFTPError):
            await pool.put(folders.local / "a", "/out/a")
        assert await settled(pool)
    assert ours(hostile) == {}
    assert [content for _, content in hostile.taken] == [NEW]


async def upload_one(pool: SFTPPool, local: Path) -> None:
    (await upload(pool, local / "a", "/out/", inplace=True)).raise_for_errors()


async def upload_all(pool: SFTPPool, local: Path) -> None:
    (await upload(pool, local, "/out", inplace=True)).raise_for_errors()


async def put_in_place(pool: SFTPPool, local: Path) -> None:
    await pool.put(local / "a", "/out/a", inplace=True)


async def put_stream(pool: SFTPPool, local: Path) -> None:
    await pool.put_stream([(local / "a").read_bytes()], "/out/a", inplace=True)


@pytest.mark.parametrize("way", [put_in_place, put_stream, upload_one, upload_all])
@pytest.mark.parametrize("tells", [True, False], ids=["tells", "tells-nothing"])
@contents
async def test_a_hot_folder_takes_a_file_that_is_written_in_place_once(
    folders: Folders, way: Way, content: bytes, tells: bool
) -> None:
    """It is gone before anything could be asked or set of it, and that is a success."""
    (folders.local / "a").write_bytes(content)
    silent = dict.fromkeys(("STAT", "LSTAT", "OPENDIR", "SETSTAT", "FSETSTAT"), PERMISSION_DENIED)
    hostile = Hostile(taken_at_close={b"/out"}, refuse={} if tells else silent)
    hostile.tree.mkdir("/out")
    async with pool_on(hostile, folders.remote) as pool:
        await way(pool, folders.local)
        assert await settled(pool)
    assert hostile.taken == [(b"/out/a", content)]
    assert ours(hostile) == {}


async def test_a_hot_folder_takes_a_stream_under_its_own_name(folders: Folders) -> None:
    hostile = Hostile(taken_at_close={b"/out"})
    hostile.tree.mkdir("/out")
    async with pool_on(hostile, folders.remote) as pool, pool.open("/out/a", "w") as file:
        await file.write(NEW)
    assert hostile.taken == [(b"/out/a", NEW)]


@ways
async def test_a_close_that_is_refused_is_no_success(folders: Folders, way: Way) -> None:
    (folders.local / "a").write_bytes(NEW)
    hostile = Hostile(refuse={"CLOSE": FAILURE})
    hostile.tree.write("/out/a", OLD)
    async with pool_on(hostile, folders.remote) as pool:
        with pytest.raises((SFTPError, ItemErrors)):
            await way(pool, folders.local)
        assert await settled(pool)
    assert ours(hostile)["/out/a"] == OLD


@ways
async def test_a_denied_folder_gets_nothing(folders: Folders, way: Way) -> None:
    (folders.local / "a").write_bytes(NEW)
    hostile = Hostile(deny={b"/out"})
    hostile.tree.mkdir("/out")
    async with pool_on(hostile, folders.remote) as pool:
        with pytest.raises((SFTPError, ItemErrors)):
            await way(pool, folders.local)
        assert await settled(pool)
    assert ours(hostile) == {}


@pytest.mark.parametrize("below", ["", "sub/"])
@pytest.mark.parametrize("mkdir", [FAILURE, PERMISSION_DENIED], ids=["mkdir-failure", "mkdir-denied"])
async def test_a_drop_box_that_tells_nothing_gets_its_files(folders: Folders, below: str, mkdir: int) -> None:
    """It may be neither looked at nor listed, and nothing can be made in it; files may be written and renamed."""
    (folders.local / below).mkdir(exist_ok=True)
    (folders.local / below / "a").write_bytes(NEW)
    hostile = Hostile(
        refuse=dict.fromkeys(("STAT", "LSTAT", "OPENDIR", "statvfs"), PERMISSION_DENIED) | {"MKDIR": mkdir}
    )
    hostile.tree.mkdir(f"/out/{below}")
    async with pool_on(hostile, folders.remote) as pool:
        (await upload(pool, folders.local, "/out")).raise_for_errors()
        (await upload(pool, folders.local / below / "a", f"/out/{below}b")).raise_for_errors()
        assert await settled(pool)
    assert ours(hostile) == {f"/out/{below}a": NEW, f"/out/{below}b": NEW}


async def test_a_folder_that_cannot_be_made_is_an_error_even_where_nothing_is_told(folders: Folders) -> None:
    (folders.local / "a").write_bytes(NEW)
    hostile = Hostile(refuse=dict.fromkeys(("STAT", "LSTAT", "OPENDIR", "MKDIR"), PERMISSION_DENIED))
    async with pool_on(hostile, folders.remote) as pool:
        with pytest.raises((SFTPError, ItemErrors)):
            (await upload(pool, folders.local, "/out")).raise_for_errors()
    assert hostile.tree.files() == {}


async def test_a_temporary_file_that_cannot_be_removed_is_left_and_the_error_is_the_first_one(folders: Folders) -> None:
    (folders.local / "a").write_bytes(NEW)
    hostile = Hostile(refuse={"REMOVE": PERMISSION_DENIED, "RENAME": FAILURE, "posix-rename": FAILURE})
    hostile.tree.mkdir("/out")
    async with pool_on(hostile, folders.remote) as pool:
        with pytest.raises(SFTPError, match="/out/a"):
            await pool.put(folders.local / "a", "/out/a")
        assert await settled(pool)
        assert hostile.open_handles == []
    assert list(ours(hostile).values()) == [NEW]


LYING = pytest.mark.parametrize(
    ("lie", "without"), [("posix-rename", ()), ("RENAME", ("posix-rename",))], ids=["posix-rename", "RENAME"]
)


@LYING
@contents
@pytest.mark.parametrize("old", [None, OLD], ids=["new-name", "over-a-file"])
@pytest.mark.parametrize("skip", ["same", "never"])
async def test_ok_that_is_a_lie_of_rename_is_an_error_of_an_upload(
    folders: Folders, lie: str, without: tuple[str, ...], content: bytes, old: bytes | None, skip: Any
) -> None:
    (folders.local / "a").write_bytes(content)
    hostile = Hostile(lie={lie}, without=without)
    hostile.tree.mkdir("/out")
    if old is not None:
        hostile.tree.write("/out/a", old)
    async with pool_on(hostile, folders.remote) as pool:
        report = await upload(pool, folders.local, "/out", skip=skip)
        assert await settled(pool)
    assert (report.files_done, report.files_failed, report.files_found) == (0, 1, 1)
    (temporary,) = ours(hostile).keys() - {"/out/a"}
    assert f"/out/a is still {temporary}" in str(report.errors[0].error)
    assert ours(hostile).get("/out/a") == old
    assert ours(hostile)[temporary] == content


@LYING
async def test_a_mirror_deletes_nothing_after_a_lie_of_rename(
    folders: Folders, lie: str, without: tuple[str, ...]
) -> None:
    (folders.local / "a").write_bytes(NEW)
    hostile = Hostile(lie={lie}, without=without)
    hostile.tree.write("/out/old", OLD)
    async with pool_on(hostile, folders.remote) as pool:
        report = await sync(folders.local, (pool, "/out"), delete=True)
    assert not report.ok
    assert ours(hostile)["/out/old"] == OLD


@LYING
async def test_a_lie_of_rename_loses_nothing(folders: Folders, lie: str, without: tuple[str, ...]) -> None:
    (folders.local / "a").write_bytes(NEW)
    hostile = Hostile(lie={lie}, without=without)
    hostile.tree.write("/out/a", OLD)
    async with pool_on(hostile, folders.remote) as pool:
        await pool.put(folders.local / "a", "/out/a")  # a single file is not looked at
        assert await settled(pool)
    assert sorted(ours(hostile).values()) == sorted([OLD, NEW])


@pytest.mark.parametrize("kind", ["STAT", "LSTAT", "FSTAT", "OPEN", "OPENDIR", "READDIR", "limits", "statvfs"])
@ways
async def test_ok_in_place_of_an_answer_is_never_taken_for_a_file(folders: Folders, way: Way, kind: str) -> None:
    (folders.local / "a").write_bytes(NEW)
    hostile = Hostile(lie={kind})
    hostile.tree.write("/out/a", OLD)
    failed = False
    async with pool_on(hostile, folders.remote) as pool:
        try:
            await asyncio.wait_for(way(pool, folders.local), 100)
        except (SFTPError, ItemErrors):
            failed = True
    assert ours(hostile)["/out/a"] == (OLD if failed else NEW)


async def test_ok_that_is_a_lie_of_remove_is_found_out_by_rmdir(folders: Folders) -> None:
    hostile = Hostile(lie={"REMOVE"})
    hostile.tree.write("/out/a", OLD)
    async with pool_on(hostile, folders.remote) as pool:
        await pool.remove("/out/a")
        with pytest.raises(SFTPError, match="not empty"):
            await pool.rmdir("/out")
    assert ours(hostile) == {"/out/a": OLD}


async def test_a_folder_that_vanishes_is_named(folders: Folders) -> None:
    (folders.local / "a").write_bytes(NEW)
    hostile = Hostile(refuse_if=lambda request: NO_SUCH_FILE if request.kind == "OPEN" else None)
    hostile.tree.mkdir("/out")
    async with pool_on(hostile, folders.remote) as pool:
        with pytest.raises(SFTPError, match="/out/a"):
            await pool.put(folders.local / "a", "/out/a")
