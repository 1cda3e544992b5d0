"""Listings that do not tell what is a file and what a folder, are cut off, go round, or lead down for ever."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncworker.errors import SFTPError, SFTPFileNotFound, SFTPPermissionDenied, SFTPTypeUnknown
from asyncworker.sftp import BulkReport, download, upload
from tests.integration.sftp.conftest import Folders, pool_of, pool_on
from tests.integration.sftp.test_get import settled
from tests.servers.sftp_hostile import (
    BAD_MESSAGE,
    FAILURE,
    NO_SUCH_FILE,
    PERMISSION_DENIED,
    UNSUPPORTED,
    Hostile,
    Request,
    Stat,
    without_attributes,
    without_type_bits,
)
from tests.servers.sshd import Sshd

NAMES = [f"{folder}{n}.xml" for folder in ("", "sub/", "sub/deep/", "other/") for n in range(40)]
UNTOLD = {"no attributes": without_attributes, "no type": without_type_bits}


def serving(**switches: Any) -> Hostile:
    hostile = Hostile(**switches)
    for name in NAMES:
        hostile.tree.write(f"/in/{name}", name.encode(), mtime=1_600_000_000)
    hostile.tree.symlink("/in/link", "0.xml")
    return hostile


def arrived(folder: Path) -> list[str]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert all(path.read_bytes() == str(path.relative_to(folder)).encode() for path in found)
    return sorted(str(path.relative_to(folder)) for path in found)


async def downloaded(hostile: Hostile, folders: Folders, **how: Any) -> BulkReport:
    async with pool_on(hostile, folders.remote, connections=2) as pool, asyncio.timeout(240):
        report = await download(pool, "/in", folders.local, **how)
        assert await settled(pool)
        assert hostile.open_handles == []
    return report


@pytest.mark.parametrize("untold", UNTOLD.values(), ids=UNTOLD)
async def test_walk_goes_into_folders_that_only_lstat_tells(folders: Folders, untold: Any) -> None:
    hostile = serving(claim=untold("READDIR"))
    async with pool_on(hostile, folders.remote) as pool:
        found = {entry.path: entry.file_type async for entry in pool.walk("/in")}
        assert await settled(pool)
    expected: dict[str, str] = {f"/in/{name}": "file" for name in NAMES}
    assert found == expected | dict.fromkeys(("/in/sub", "/in/sub/deep", "/in/other"), "dir") | {"/in/link": "link"}
    assert hostile.count("LSTAT") == len(found)


async def test_lstats_keep_the_order_of_the_listing_and_are_many_at_a_time(folders: Folders) -> None:
    hostile = Hostile(claim=without_attributes("READDIR"), reverse=True, names_per_answer=7)
    names = [f"{n}" for n in range(500)]
    for name in names:
        hostile.tree.write(f"/in/{name}", b"x" * int(name))
    async with pool_on(hostile, folders.remote, connections=1) as pool:
        listed = [entry async for entry in pool.list("/in")]
        assert await settled(pool)
    assert [entry.name for entry in listed] == names
    assert [entry.size_bytes for entry in listed] == list(range(500))
    assert hostile.most_in_air > 64


@pytest.mark.parametrize("in_flight", [1, 3])
async def test_lstats_heed_in_flight(folders: Folders, in_flight: int) -> None:
    hostile = serving(claim=without_attributes("READDIR"), delay_s={"LSTAT": 0.001})
    in_air = []

    def at_its_answer(request: Request) -> None:
        if request.kind == "LSTAT":
            in_air.append(hostile.count("LSTAT") - len(in_air))

    hostile.refuse_if = at_its_answer
    async with pool_on(hostile, folders.remote, connections=1, in_flight=in_flight) as pool:
        assert len([entry async for entry in pool.list("/in")]) == 43
    assert len(in_air) == 43
    assert max(in_air) <= in_flight


async def test_what_openssh_tells_is_not_asked_for(folders: Folders) -> None:
    hostile = serving()
    assert (await downloaded(hostile, folders)).ok
    assert hostile.count("LSTAT", "FSTAT") == 0
    assert hostile.count("STAT") == 1  # of /in itself


@pytest.mark.parametrize("status", [UNSUPPORTED, BAD_MESSAGE])
async def test_a_server_without_lstat_is_asked_by_stat(folders: Folders, status: int) -> None:
    report = await downloaded(serving(claim=without_attributes("READDIR"), refuse={"LSTAT": status}), folders)
    report.raise_for_errors()
    (folders.local / "link").unlink()  # STAT follows it
    assert arrived(folders.local) == sorted(NAMES)


SILENT = {
    "LSTAT denied": {"refuse": {"LSTAT": PERMISSION_DENIED}},
    "LSTAT fails": {"refuse": {"LSTAT": FAILURE}},
    "LSTAT finds nothing": {"refuse": {"LSTAT": NO_SUCH_FILE}},
    "LSTAT says nothing": {"claim": without_attributes("READDIR", "LSTAT")},
    "LSTAT says no type": {"claim": without_type_bits("READDIR", "LSTAT")},
    "neither is known": {"refuse": {"LSTAT": UNSUPPORTED, "STAT": UNSUPPORTED}},
}


@pytest.mark.parametrize("switches", SILENT.values(), ids=SILENT)
@pytest.mark.promise("sftp-no-file-silently-missing")
async def test_a_type_that_stays_unknown_is_an_error_for_each_name(folders: Folders, switches: dict[str, Any]) -> None:
    report = await downloaded(serving(**({"claim": without_attributes("READDIR")} | switches)), folders)
    assert report.files_failed == len(report.errors) == 43
    assert {type(result.error) for result in report.errors} == {SFTPTypeUnknown}
    assert "/in/sub" in {result.remote for result in report.errors}
    assert folders.left() == []


async def test_only_what_is_wanted_is_missed(folders: Folders) -> None:
    hostile = serving(claim=without_attributes("READDIR"), refuse={"LSTAT": PERMISSION_DENIED})
    report = await downloaded(hostile, folders, include="1*.xml", recursive=False)
    assert sorted(result.remote for result in report.errors) == sorted(
        f"/in/{n}.xml" for n in range(40) if str(n).startswith("1")
    )


async def test_walk_ends_with_an_unknown_type_or_reports_it(folders: Folders) -> None:
    hostile = serving(claim=without_attributes("READDIR"), refuse={"LSTAT": PERMISSION_DENIED})
    async with pool_on(hostile, folders.remote) as pool:
        with pytest.raises(SFTPTypeUnknown, match="permission denied"):
            async for _ in pool.walk("/in"):
                pass
        errors: dict[str, SFTPError] = {}
        found = [entry async for entry in pool.walk("/in", on_error=errors.__setitem__)]
        assert {entry.path for entry in found} == set(errors)
        assert {entry.file_type for entry in found} == {None}
        assert not any(entry.is_file or entry.is_dir or entry.is_link for entry in found)
        assert len([entry async for entry in pool.walk("/in", max_depth=0)]) == 43  # nothing to go into
        assert await settled(pool)
        assert hostile.open_handles == []


async def test_a_file_whose_size_is_not_listed_is_chosen_by_the_one_that_lstat_tells(folders: Folders) -> None:
    def claim(kind: str, path: bytes, told: Stat) -> Stat:
        return Stat(mode=told.mode) if kind == "READDIR" else told

    report = await downloaded(serving(claim=claim), folders, min_size_bytes=len("sub/0.xml"))
    report.raise_for_errors()
    assert arrived(folders.local) == sorted(name for name in NAMES if len(name) >= len("sub/0.xml"))
    again = await downloaded(serving(claim=claim), folders, min_size_bytes=len("sub/0.xml"))
    assert (again.files_done, again.files_skipped) == (0, report.files_done + 1)  # and the link


async def test_a_listing_without_times_is_asked_for_once(folders: Folders) -> None:
    hostile = serving(claim=lambda kind, path, told: Stat(size=told.size, mode=told.mode))
    async with pool_on(hostile, folders.remote) as pool:
        assert len([entry async for entry in pool.list("/in")]) == 43
    assert hostile.count("LSTAT") == 1


@pytest.mark.parametrize("refuse", [{"STAT": PERMISSION_DENIED}, {"STAT": UNSUPPORTED, "LSTAT": UNSUPPORTED}])
@pytest.mark.parametrize("remote", ["/in", "/in/", "/in/*.xml", "/in/3.xml"])
async def test_download_finds_out_what_is_meant_without_stat(
    folders: Folders, refuse: dict[str, int], remote: str
) -> None:
    async with pool_on(serving(refuse=refuse), folders.remote) as pool:
        (await download(pool, remote, folders.local, include="3.xml")).raise_for_errors()
    assert "3.xml" in folders.left()


async def test_upload_finds_out_what_is_there_without_types(folders: Folders) -> None:
    hostile = serving(claim=without_type_bits("READDIR", "STAT"))
    (folders.local / "new").write_bytes(b"new")
    async with pool_on(hostile, folders.remote) as pool:
        (await upload(pool, folders.local, "/in/sub")).raise_for_errors()
        (await upload(pool, folders.local / "new", "/in/other")).raise_for_errors()
    assert hostile.tree.read("/in/sub/new") == hostile.tree.read("/in/other/new") == b"new"


# -- listings that are cut off -------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["/in", "/in/sub"])
async def test_what_a_listing_had_told_before_it_failed_arrives(folders: Folders, folder: str) -> None:
    hostile = serving(names_per_answer=5)
    answered = itertools.count()

    def cut_off(request: Request) -> int | None:
        return FAILURE if request.kind == "READDIR" and request.path == folder.encode() and next(answered) > 5 else None

    hostile.refuse_if = cut_off
    report = await downloaded(hostile, folders)
    assert [result.remote for result in report.errors] == [folder]
    assert f"cannot list {folder}" in str(report.errors[0].error)
    assert report.files_done >= 20
    assert len(arrived(folders.local)) == report.files_done


async def test_a_folder_that_cannot_be_listed_at_all_is_raised(folders: Folders) -> None:
    with pytest.raises(SFTPPermissionDenied):
        await downloaded(serving(refuse={"OPENDIR": PERMISSION_DENIED}), folders)
    with pytest.raises(SFTPFileNotFound):
        async with pool_on(serving(), folders.remote / "2") as pool:
            await download(pool, "/missing", folders.local)


async def test_walk_reports_a_denied_folder_and_goes_on(folders: Folders) -> None:
    hostile = serving(deny={b"/in/sub"})
    async with pool_on(hostile, folders.remote) as pool:
        errors: dict[str, SFTPError] = {}
        found = {entry.path async for entry in pool.walk("/in", on_error=errors.__setitem__)}
    assert {path: type(error) for path, error in errors.items()} == {"/in/sub": SFTPPermissionDenied}
    assert {f"/in/{name}" for name in NAMES if not name.startswith("sub/")} <= found


# -- without an end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names_per_answer", [3, 100])
@pytest.mark.promise("sftp-endless-listings-are-given-up")
async def test_a_folder_that_repeats_is_reported_and_all_arrives(folders: Folders, names_per_answer: int) -> None:
    report = await downloaded(serving(repeat=True, names_per_answer=names_per_answer), folders)
    assert sorted(result.remote for result in report.errors) == ["/in", "/in/other", "/in/sub", "/in/sub/deep"]
    assert all("names again and again" in str(result.error) for result in report.errors)
    assert arrived(folders.local) == sorted(NAMES)


async def test_a_folder_of_empty_answers_is_given_up(folders: Folders) -> None:
    with pytest.raises(SFTPError, match="gave up listing /in: 1,000 answers without a name"):
        await downloaded(serving(empty_answers=10**9), folders)
    (await downloaded(serving(empty_answers=900), folders)).raise_for_errors()
    assert arrived(folders.local) == sorted(NAMES)


@pytest.mark.promise("sftp-endless-listings-are-given-up")
async def test_a_tree_without_a_bottom_ends_the_walk_whatever_is_done_with_errors(folders: Folders) -> None:
    hostile = Hostile(bottomless=True)
    hostile.tree.mkdir("/a")  # so each folder has two
    async with pool_on(hostile, folders.remote) as pool, asyncio.timeout(240):
        with pytest.raises(SFTPError, match="2,048 folders in each other"):
            async for _ in pool.walk("/", on_error=lambda *_: None):
                pass
        assert len([entry async for entry in pool.walk("/", max_depth=3)]) == 2 + 4 + 8 + 16
        assert await settled(pool)
        assert hostile.open_handles == []


async def test_mounts_that_lead_up_again_end_the_walk_where_paths_become_too_long(folders: Folders) -> None:
    """There are a million million of them, and each one ends with a refusal."""
    hostile = Hostile(bottomless=True)
    hostile.tree.mkdir("/a")
    hostile.refuse_if = lambda request: FAILURE if request.kind == "OPENDIR" and len(request.path) > 280 else None
    errors: list[str] = []
    async with pool_on(hostile, folders.remote) as pool, asyncio.timeout(240):
        with pytest.raises(SFTPError, match="1,000 deep folders that cannot be listed"):
            async for _ in pool.walk("/", on_error=lambda path, _: errors.append(path)):
                pass
        assert len(errors) > 1000
        assert await settled(pool)
        assert hostile.open_handles == []


# -- deep trees ----------------------------------------------------------------------------------------------------


@pytest.fixture
def deep(folders: Folders) -> Any:
    """A tree of 1,500 folders in each other, with a file at the bottom; shutil could not remove what comes of it."""
    yield "/".join(["d"] * 1500)
    for folder in (folders.remote, folders.local):
        subprocess.run(["rm", "-rf", folder], check=True)


@pytest.mark.parametrize("options", [{}, {"include": "*.xml"}, {"exclude": "*.tmp"}, {"include": "d/"}])
async def test_a_tree_of_1500_levels_arrives(folders: Folders, deep: str, options: dict[str, Any]) -> None:
    hostile = Hostile()
    hostile.tree.write(f"/in/{deep}/a.xml", b"content")
    assert sys.getrecursionlimit() < 1500
    async with pool_on(hostile, folders.remote) as pool, asyncio.timeout(240):
        (await download(pool, "/in", folders.local, **options)).raise_for_errors()
        again = await download(pool, "/in", folders.local, **options)
        assert (again.files_done, again.files_skipped) == (0, 1)
    found = subprocess.run(["find", folders.local, "-name", "a.xml"], capture_output=True, check=True, text=True)
    assert found.stdout.strip() == f"{folders.local}/{deep}/a.xml"


async def test_a_tree_of_1500_levels_is_sent(sshd: Sshd, folders: Folders, deep: str) -> None:
    subprocess.run(["mkdir", "-p", f"{folders.local}/{deep}"], check=True)
    Path(f"{folders.local}/{deep}/a.xml").write_bytes(b"content")
    async with pool_of(sshd) as pool, asyncio.timeout(240):
        (await upload(pool, folders.local, str(folders.remote), include="*.xml")).raise_for_errors()
    assert Path(f"{folders.remote}/{deep}/a.xml").read_bytes() == b"content"


async def test_remove_tree_takes_files_whose_type_is_unknown(folders: Folders) -> None:
    hostile = Hostile(claim=without_type_bits("READDIR"))
    hostile.refuse_if = lambda request: FAILURE if request.kind == "LSTAT" and request.path != b"/in" else None
    for name in "abc":
        hostile.tree.write(f"/in/{name}")
    async with pool_on(hostile, folders.remote) as pool:
        assert await pool.remove_tree("/in") == 4
    assert hostile.tree.paths() == []


async def test_what_may_be_newer_is_not_replaced(folders: Folders) -> None:
    hostile = Hostile(claim=lambda kind, path, told: Stat(size=told.size, mode=told.mode))
    hostile.tree.write("/in/a", b"theirs")
    (folders.local / "a").write_bytes(b"mine")
    (folders.local / "b").write_bytes(b"mine")
    async with pool_on(hostile, folders.remote) as pool:
        down = await download(pool, "/in", folders.local, skip="newer")
        up = await upload(pool, folders.local, "/in", skip="newer")
        hostile.refuse = {"OPENDIR": PERMISSION_DENIED}
        with pytest.raises(SFTPPermissionDenied):
            await upload(pool, folders.local, "/in", skip="newer")
    for report in (down, up):
        assert [result.remote for result in report.errors] == ["/in/a"]
        assert "does not say when it was changed" in str(report.errors[0].error)
    assert hostile.tree.files() == {"/in/a": b"theirs", "/in/b": b"mine"}
    assert (folders.local / "a").read_bytes() == b"mine"


@pytest.mark.parametrize("handles", [6, 8])
async def test_lstats_and_downloads_share_a_server_of_few_handles(folders: Folders, handles: int) -> None:
    hostile = serving(claim=without_attributes("READDIR"), limits=(262_144, 32_768, 32_768, handles))
    async with pool_on(hostile, folders.remote, connections=1) as pool, asyncio.timeout(240):
        (await download(pool, "/in", folders.local)).raise_for_errors()
        assert await settled(pool)
    assert arrived(folders.local) == sorted(NAMES)


async def test_a_connection_that_is_lost_between_lstats_loses_no_name(folders: Folders) -> None:
    hostile = serving(claim=without_attributes("READDIR"), bad_sessions=1)
    lstats = itertools.count()
    hostile.hang_up_if = lambda request: request.kind == "LSTAT" and next(lstats) == 20
    async with pool_on(hostile, folders.remote, connections=1) as pool, asyncio.timeout(240):
        (await download(pool, "/in", folders.local)).raise_for_errors()
        assert await settled(pool)
    assert hostile.hung_up == 1
    assert arrived(folders.local) == sorted(NAMES)


async def test_a_listing_that_is_left_while_lstats_are_out_gives_its_place_back(folders: Folders) -> None:
    hostile = serving(claim=without_attributes("READDIR"), delay_s={"LSTAT": 0.05}, names_per_answer=5)
    async with pool_on(hostile, folders.remote, connections=1) as pool, asyncio.timeout(240):
        entries = pool.list("/in")
        async for _ in entries:
            break
        await entries.aclose()
        assert await settled(pool)
        assert hostile.open_handles == []
        assert len([entry async for entry in pool.list("/in/sub")]) == 41
