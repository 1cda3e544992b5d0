"""Files of servers that do not know how long they are, give them out once, or cut their answers."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from asyncworker.errors import SFTPError, SFTPFileChanged, SFTPFileNotFound
from asyncworker.sftp import download
from tests.integration.sftp.conftest import Folders, pool_on
from tests.integration.sftp.test_get import settled
from tests.servers.sftp_hostile import (
    FAILURE,
    NO_SUCH_FILE,
    PERMISSION_DENIED,
    UNSUPPORTED,
    Hostile,
    claim_size,
    without_attributes,
)

SIZES = (0, 1, 32_767, 32_768, 32_769, 700_000)
ALL_KINDS = ("STAT", "LSTAT", "FSTAT", "READDIR")


def content_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def serving(**switches: Any) -> Hostile:
    hostile = Hostile(**switches)
    for size in SIZES:
        hostile.tree.write(f"/in/{size}", content_of(size), mtime=1_600_000_000)
    return hostile


async def get_each(hostile: Hostile, folders: Folders, **options: Any) -> dict[int, BaseException | None]:
    """Get each file by itself; check that each is whole or not there. Returns the errors."""
    outcomes: dict[int, BaseException | None] = {}
    async with pool_on(hostile, folders.remote, **options) as pool:
        for size in SIZES:
            local = folders.local / str(size)
            try:
                await asyncio.wait_for(pool.get(f"/in/{size}", local), 60)
            except SFTPError as error:
                outcomes[size] = error
                assert not local.exists()
            else:
                outcomes[size] = None
                assert local.read_bytes() == content_of(size)
        assert await settled(pool)
        assert hostile.open_handles == []
    assert set(folders.left()) == {str(size) for size, error in outcomes.items() if error is None}
    return outcomes


@pytest.mark.parametrize(
    "switches",
    [
        pytest.param({"read_bytes": 1000}, id="short-reads"),
        pytest.param({"reverse": True}, id="answers-in-another-order"),
        pytest.param({"delay_s": {"FSTAT": 0.02}}, id="attributes-after-the-data"),
        pytest.param({"refuse": {"FSTAT": UNSUPPORTED}}, id="FSTAT-unsupported"),
        pytest.param({"refuse": {"FSTAT": PERMISSION_DENIED}}, id="FSTAT-denied"),
        pytest.param({"refuse": {"FSTAT": FAILURE}}, id="FSTAT-failure"),
        pytest.param({"refuse": {"FSTAT": NO_SUCH_FILE}}, id="FSTAT-no-such-file"),
        pytest.param({"refuse": {"STAT": PERMISSION_DENIED, "LSTAT": PERMISSION_DENIED}}, id="no-STAT"),
        pytest.param({"claim": without_attributes("FSTAT")}, id="FSTAT-says-nothing"),
        pytest.param({"claim": claim_size(lambda _: None, *ALL_KINDS)}, id="no-size-anywhere"),
        pytest.param(
            {"claim": claim_size(lambda _: 0, *ALL_KINDS)},
            id="size-0-everywhere",
        ),
        pytest.param({"one_time_reads": True, "refuse": {"FSTAT": NO_SUCH_FILE}}, id="one-time-mailbox"),
    ],
)
async def test_get_brings_every_byte(folders: Folders, switches: dict[str, Any]) -> None:
    outcomes = await get_each(serving(**switches), folders)
    assert outcomes == dict.fromkeys(SIZES)


@pytest.mark.parametrize("claim", [lambda size: size + 1, lambda size: size * 2 + 100_000], ids=["1-more", "far-more"])
async def test_a_size_that_is_too_large_is_not_called_a_whole_file(folders: Folders, claim: Any) -> None:
    outcomes = await get_each(serving(claim=claim_size(claim, "FSTAT", "STAT")), folders)
    assert all(isinstance(error, SFTPFileChanged) for error in outcomes.values())


@pytest.mark.parametrize("claim", [lambda size: size - 1, lambda size: max(1, size // 2)], ids=["1-less", "half"])
async def test_a_size_that_is_too_small_is_not_called_a_whole_file(folders: Folders, claim: Any) -> None:
    """Either every byte comes, or an error: never the first half as if it were all."""
    hostile = serving(claim=claim_size(lambda size: claim(size) if size > 1 else size, "FSTAT", "STAT"))
    outcomes = await get_each(hostile, folders)
    assert outcomes[0] is None
    assert outcomes[1] is None


@pytest.mark.parametrize("end", [1, 32_768, 699_999])
async def test_an_end_before_the_announced_size_is_an_error(folders: Folders, end: int) -> None:
    hostile = serving(eof_at={b"/in/700000": end})
    async with pool_on(hostile, folders.remote) as pool:
        with pytest.raises(SFTPFileChanged):
            await pool.get("/in/700000", folders.local / "a")
        assert await settled(pool)
        assert hostile.open_handles == []
    assert folders.left() == []


@pytest.mark.parametrize("end", [700_001, 3_000_000])
async def test_an_end_behind_the_announced_size_is_an_error(folders: Folders, end: int) -> None:
    hostile = serving(eof_at={b"/in/700000": end})
    async with pool_on(hostile, folders.remote) as pool:
        with pytest.raises(SFTPFileChanged):
            await pool.get("/in/700000", folders.local / "a")
        assert await settled(pool)
        assert hostile.open_handles == []
    assert folders.left() == []


async def test_a_one_time_read_is_asked_for_once(folders: Folders) -> None:
    hostile = serving(one_time_reads=True)
    outcomes = await get_each(hostile, folders)
    assert outcomes == dict.fromkeys(SIZES)
    assert hostile.tree.files() == {}
    assert hostile.count("OPEN") == len(SIZES)


async def test_a_folder_of_one_time_reads_is_downloaded(folders: Folders) -> None:
    hostile = serving(one_time_reads=True, refuse={"FSTAT": NO_SUCH_FILE})
    async with pool_on(hostile, folders.remote) as pool:
        (await download(pool, "/in", folders.local)).raise_for_errors()
        assert await settled(pool)
    assert {path.name: path.read_bytes() for path in folders.local.iterdir()} == {
        str(size): content_of(size) for size in SIZES
    }


async def test_the_end_that_a_mailbox_hangs_up_at_loses_nothing_that_came(folders: Folders) -> None:
    """The connection is cut after the last READ was answered: the file has arrived, or the error says which has not."""
    hostile = serving(hang_up_if=lambda request: request.kind == "CLOSE", bad_sessions=1)
    outcomes = await get_each(hostile, folders, connections=1)
    assert outcomes == dict.fromkeys(SIZES)


async def test_a_file_that_is_gone_at_its_open_is_named(folders: Folders) -> None:
    hostile = serving(refuse_if=lambda request: NO_SUCH_FILE if request.path == b"/in/1" else None)
    async with pool_on(hostile, folders.remote) as pool:
        with pytest.raises(SFTPFileNotFound, match="/in/1"):
            await pool.get("/in/1", folders.local / "1")
        report = await download(pool, "/in", folders.local)
    assert [error.remote for error in report.errors] == ["/in/1"]
    assert len(folders.left()) == len(SIZES) - 1


@pytest.mark.parametrize("refuses", [False, True])
async def test_a_snapshot_goes_by_the_open_file_not_by_the_listing(folders: Folders, refuses: bool) -> None:
    """A listing may be old; where the open file tells nothing, there is only that."""
    hostile = serving(claim=claim_size(lambda size: size // 2, "READDIR", "LSTAT", "STAT"))
    hostile.refuse = {"FSTAT": PERMISSION_DENIED} if refuses else {}
    async with pool_on(hostile, folders.remote) as pool:
        report = await download(pool, "/in", folders.local, read_to="snapshot")
    assert report.ok, report.errors
    for size in SIZES[2:]:
        length = size // 2 if refuses else size
        assert (folders.local / str(size)).read_bytes() == content_of(size)[:length]
