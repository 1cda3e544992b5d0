"""Folders of servers that say little of their files, say it oddly, or never come to an end."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncworker.errors import SFTPError, SFTPPermissionDenied
from asyncworker.sftp import download
from tests.integration.sftp.conftest import Folders, pool_on
from tests.integration.sftp.test_get import settled
from tests.servers.sftp_hostile import (
    FAILURE,
    PERMISSION_DENIED,
    UNSUPPORTED,
    Hostile,
    without_attributes,
    without_type_bits,
)

FILES = {f"{folder}{n}": f"{folder}{n}".encode() * n for folder in ("", "sub/", "sub/deep/") for n in range(7)}


def serving(**switches: Any) -> Hostile:
    hostile = Hostile(**switches)
    for name, content in FILES.items():
        hostile.tree.write(f"/in/{name}", content)
    return hostile


def arrived(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "switches",
    [
        pytest.param({"names_per_answer": 1}, id="one-name-an-answer"),
        pytest.param({"empty_answers": 3}, id="zero-names-before-the-first"),
        pytest.param({"dots": True}, id="dots"),
        pytest.param({"reverse": True}, id="answers-in-another-order"),
        pytest.param({"without": ("limits", "statvfs", "posix-rename", "fsync")}, id="no-extensions"),
        pytest.param({"most_handles": 10, "limits": (262_144, 32_768, 32_768, 10)}, id="ten-handles"),
        pytest.param({"refuse": {"LSTAT": UNSUPPORTED, "FSTAT": UNSUPPORTED}}, id="no-lstat-nor-fstat"),
        pytest.param(
            {"claim": without_attributes("READDIR")},
            id="no-attributes",
        ),
        pytest.param(
            {"claim": without_type_bits("READDIR")},
            id="no-type-bits",
        ),
    ],
)
async def test_a_tree_arrives_whole(folders: Folders, switches: dict[str, Any]) -> None:
    hostile = serving(**switches)
    async with pool_on(hostile, folders.remote, connections=1) as pool:
        report = await asyncio.wait_for(download(pool, "/in", folders.local), 60)
        report.raise_for_errors()
        assert await settled(pool)
        assert hostile.open_handles == []
    assert arrived(folders.local) == FILES


@pytest.mark.promise("sftp-no-file-silently-missing")
async def test_what_stays_unknown_is_an_error(folders: Folders) -> None:
    hostile = serving(claim=without_attributes("READDIR"), refuse={"LSTAT": PERMISSION_DENIED})
    async with pool_on(hostile, folders.remote) as pool:
        report = await asyncio.wait_for(download(pool, "/in", folders.local), 60)
        assert await settled(pool)
    assert not report.ok


@pytest.mark.parametrize("switches", [{"repeat": True}, {"empty_answers": 10**9}], ids=["repeats", "zero-names"])
async def test_a_listing_without_an_end_is_an_error(folders: Folders, switches: dict[str, Any]) -> None:
    hostile = serving(**switches)
    async with pool_on(hostile, folders.remote) as pool:
        with pytest.raises(SFTPError, match="/in"):
            async with asyncio.timeout(120):
                async for _ in pool.list("/in"):
                    pass
        assert await settled(pool)
        assert hostile.open_handles == []


async def test_each_folder_of_a_listing_without_an_end_is_entered_once(folders: Folders) -> None:
    hostile = Hostile(repeat=True)
    hostile.tree.write("/in/a/b/c/d/file", b"x")  # each of them is named dozens of times, or dozens to the fifth
    listed: list[str] = []
    async with pool_on(hostile, folders.remote) as pool:
        found = {entry.path async for entry in pool.walk("/in", on_error=lambda folder, _: listed.append(folder))}
    assert "/in/a/b/c/d/file" in found
    assert sorted(listed) == ["/in", "/in/a", "/in/a/b", "/in/a/b/c", "/in/a/b/c/d"]


@pytest.fixture
def deep_folders(folders: Folders) -> Iterator[Folders]:
    """Folders in which trees may be deeper than shutil, and so pytest, could remove."""
    yield folders
    subprocess.run(["rm", "-rf", folders.local], check=True)


async def test_a_tree_without_a_bottom_is_an_error(deep_folders: Folders) -> None:
    folders = deep_folders
    hostile = serving(bottomless=True)
    async with pool_on(hostile, folders.remote) as pool:
        async with asyncio.timeout(240):
            try:
                report = await download(pool, "/in", folders.local)
            except SFTPError:
                pass
            else:
                assert not report.ok
        assert await settled(pool)
        assert hostile.open_handles == []


async def test_a_denied_folder_is_reported_and_the_rest_arrives(folders: Folders) -> None:
    hostile = serving(deny={b"/in/sub/deep"})
    async with pool_on(hostile, folders.remote) as pool:
        report = await download(pool, "/in", folders.local)
        assert await settled(pool)
    assert [(error.remote, type(error.error)) for error in report.errors] == [("/in/sub/deep", SFTPPermissionDenied)]
    assert arrived(folders.local) == {name: content for name, content in FILES.items() if "deep" not in name}


async def test_a_listing_refused_half_way_gives_what_it_had_and_the_error(folders: Folders) -> None:
    hostile = serving(names_per_answer=3)
    hostile.refuse_if = lambda request: FAILURE if request.kind == "READDIR" and hostile.count("READDIR") > 1 else None
    found = []
    async with pool_on(hostile, folders.remote) as pool:
        with pytest.raises(SFTPError, match="cannot list /in"):
            async for entry in pool.list("/in"):
                found.append(entry.name)
        assert await settled(pool)
        assert hostile.open_handles == []
    assert len(found) <= 3
