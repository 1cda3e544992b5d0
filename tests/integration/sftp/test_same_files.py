"""Files that are there already: compared by their contents, and on servers that do not keep times of change."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any, Literal

import pytest

from asyncworker.errors import SettingsError
from asyncworker.sftp import BulkReport, FileResult, SFTPPool, download, upload
from tests.integration.sftp.conftest import Folders, pool_of, pool_on
from tests.servers.sftp import SFTPServer
from tests.servers.sftp_hostile import UNSUPPORTED, Hostile
from tests.servers.sshd import Sshd

Direction = Literal["down", "up"]
MEGABYTE = 1024 * 1024


@pytest.fixture(params=["down", "up"])
def direction(request: pytest.FixtureRequest) -> Direction:
    found: Direction = request.param
    return found


async def move(pool: SFTPPool, direction: Direction, folders: Folders, **options: Any) -> BulkReport:
    if direction == "down":
        return await download(pool, folders.remote, folders.local, **options)
    return await upload(pool, folders.remote, folders.local, **options)


def write(path: Path, content: bytes, at: int) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (at, at))


async def test_files_of_the_same_contents_stay_whatever_their_times(
    any_server: Sshd | SFTPServer, folders: Folders, direction: Direction
) -> None:
    large = random.Random(1).randbytes(9 * MEGABYTE)
    files = {"same": b"s" * 1000, "empty": b"", "sub/large": large, "last": b"l" * 300_000, "other": b"o", "size": b"x"}
    for name, content in files.items():
        write(folders.remote / name, content, 1_000_000_000)
        write(folders.local / name, content, 1_100_000_000)
    write(folders.local / "last", b"l" * 299_999 + b"?", 1_000_000_000)
    write(folders.local / "other", b"O", 1_000_000_000)
    write(folders.local / "size", b"xx", 1_000_000_000)
    skipped: list[FileResult] = []
    planned: list[FileResult] = []
    async with pool_of(any_server) as pool:
        trial = await move(pool, direction, folders, skip="checksum", dry_run=True, on_file=planned.append)
        assert (trial.files_found, trial.files_skipped, trial.files_done) == (3, 3, 0)
        assert sorted((result.reason, result.outcome) for result in planned) == [
            ("another size", "would_move"),
            ("other contents", "would_move"),
            ("other contents", "would_move"),
        ]
        report = await move(pool, direction, folders, skip="checksum", on_skipped=skipped.append)
        assert report.ok, report.errors
        assert (report.files_found, report.files_done, report.files_skipped) == (3, 3, 3)
        assert {result.reason for result in skipped} == {"same contents"}
        again = await move(pool, direction, folders, skip="checksum")
        assert (again.files_done, again.files_skipped) == (0, 6)
    for name, content in files.items():
        assert (folders.local / name).read_bytes() == content


async def test_one_file_is_compared_as_well(sshd: Sshd, folders: Folders, direction: Direction) -> None:
    write(folders.remote / "a", b"1234", 1_000_000_000)
    write(folders.local / "a", b"1234", 1_100_000_000)
    one = Folders(folders.remote / "a", folders.local / "a")
    async with pool_of(sshd) as pool:
        assert (await move(pool, direction, one, skip="checksum")).files_skipped == 1
        write(folders.local / "a", b"123?", 1_000_000_000)
        assert (await move(pool, direction, one, skip="checksum")).files_done == 1
        with pytest.raises(SettingsError, match="read_once"):
            await download(pool, folders.remote, folders.local, skip="checksum", read_once=True)
    assert (folders.local / "a").read_bytes() == b"1234"


@pytest.mark.parametrize(
    ("switches", "text"),
    [
        pytest.param({"refuse": {"SETSTAT": UNSUPPORTED, "FSETSTAT": UNSUPPORTED}}, "3 files", id="refused"),
        pytest.param({"lie": ("SETSTAT", "FSETSTAT")}, "does not keep", id="not-done"),
    ],
)
async def test_a_server_that_does_not_keep_times_is_named_once(
    folders: Folders, switches: dict[str, Any], text: str
) -> None:
    hostile = Hostile(**switches)
    hostile.tree.mkdir("/out")
    for name in ("a", "b", "c"):
        write(folders.remote / name, name.encode(), 1_000_000_000)
    async with pool_on(hostile, folders.remote.parent / "server") as pool:
        report = await upload(pool, folders.remote, "/out")
        assert report.ok
        assert len(report.warnings) == 1
        assert text in report.warnings[0]
        report = await upload(pool, folders.remote, "/out", skip="size")
        assert (report.files_skipped, report.warnings) == (3, ())
        report = await upload(pool, folders.remote, "/out", skip="checksum")
        assert (report.files_skipped, report.warnings) == (3, ())


async def test_no_word_of_times_where_they_are_kept(sshd: Sshd, folders: Folders, direction: Direction) -> None:
    write(folders.remote / "a", b"1234", 1_000_000_000)
    async with pool_of(sshd) as pool:
        assert (await move(pool, direction, folders)).warnings == ()
        assert (await move(pool, direction, folders)).files_skipped == 1
