"""Files whose size the server does not know, tells wrongly or refuses to tell, and files that it hands out once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from asyncworker.errors import SettingsError, SFTPFileChanged, SFTPPermissionDenied, SFTPReadInterrupted
from asyncworker.sftp import FileResult, SFTPPool, download, upload
from tests.integration.sftp.conftest import Folders, pool_of
from tests.integration.sftp.test_get import settled
from tests.servers.sftp_hostile import (
    FAILURE,
    NO_SUCH_FILE,
    PERMISSION_DENIED,
    UNSUPPORTED,
    Hostile,
    Request,
    claim_size,
    running_hostile_server,
    without_attributes,
    without_type_bits,
)

#: Around one READ, several windows, and the size from which a file is fetched over several connections.
SIZES = (0, 1, 32_768, 261_120, 261_121, 700_000, 5_000_000, 9_000_000)
ALL = ("STAT", "LSTAT", "FSTAT", "READDIR")


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def serving(**switches: Any) -> Hostile:
    hostile = Hostile(**switches)
    for size in SIZES:
        hostile.tree.write(f"/in/{size}", content(size), mtime=1_600_000_000)
    return hostile


async def got(hostile: Hostile, folders: Folders, **how: Any) -> dict[int, Exception | None]:
    """Get each file by itself; each is whole or not there. Returns the errors."""
    errors: dict[int, Exception | None] = {}
    with running_hostile_server(folders.remote, hostile) as server:
        async with pool_of(server, connections=2) as pool, asyncio.timeout(240):
            for size in SIZES:
                try:
                    await pool.get(f"/in/{size}", folders.local / str(size), **how)
                except Exception as error:
                    errors[size] = error
                else:
                    errors[size] = None
                    assert (folders.local / str(size)).read_bytes() == content(size)
            assert await settled(pool)
        assert hostile.open_handles == []
    assert sorted(folders.left()) == sorted(str(size) for size, error in errors.items() if error is None)
    return errors


async def downloaded(hostile: Hostile, folders: Folders, **how: Any) -> dict[str, FileResult]:
    """Download the folder; every file that was not reported is whole. Returns what failed, by name."""
    with running_hostile_server(folders.remote, hostile) as server:
        async with pool_of(server, connections=2) as pool, asyncio.timeout(240):
            report = await download(pool, "/in", folders.local, **how)
            assert await settled(pool)
        assert hostile.open_handles == []
    failed = {result.remote.rpartition("/")[2]: result for result in report.errors}
    arrived = {path.name: path.read_bytes() for path in folders.local.iterdir()}
    assert arrived == {str(size): content(size) for size in SIZES if str(size) not in failed}
    return failed


def refusing(*kinds: str, status: int = PERMISSION_DENIED) -> dict[str, Any]:
    return {"refuse": dict.fromkeys(kinds, status)}


def is_beyond_the_end(request: Request) -> bool:
    return request.kind == "READ" and request.offset >= int(request.path.rpartition(b"/")[2]) > 0


UNTOLD: Mapping[str, dict[str, Any]] = {
    "FSTAT denied": refusing("FSTAT"),
    "FSTAT unsupported": refusing("FSTAT", status=UNSUPPORTED),
    "FSTAT fails": refusing("FSTAT", status=FAILURE),
    "FSTAT finds no file": refusing("FSTAT", status=NO_SUCH_FILE),
    "FSTAT without attributes": {"claim": without_attributes("FSTAT")},
    "FSTAT without a type": {"claim": without_type_bits("FSTAT")},
    "STAT and LSTAT denied": refusing("STAT", "LSTAT"),
    "nothing told at all": refusing("FSTAT", "STAT", "LSTAT", "SETSTAT", "FSETSTAT", "REALPATH", "limits"),
    "no size": {"claim": claim_size(lambda _: None, *ALL)},
    "no size and short reads": {"claim": claim_size(lambda _: None, *ALL), "read_bytes": 70_001},
    "a failure in place of EOF": {"refuse_if": lambda request: FAILURE if is_beyond_the_end(request) else None},
    "a size of 0": {"claim": claim_size(lambda _: 0, *ALL)},
    "a size of 0 and short reads": {"claim": claim_size(lambda _: 0, *ALL), "read_bytes": 70_001},
}


@pytest.mark.parametrize("switches", UNTOLD.values(), ids=UNTOLD)
async def test_get_reads_what_is_not_told_to_its_end(folders: Folders, switches: dict[str, Any]) -> None:
    assert set((await got(serving(**switches), folders)).values()) == {None}


REFUSED = ("statvfs", "limits", "fsync", "SETSTAT", "FSETSTAT", "REALPATH", "STAT", "LSTAT", "FSTAT")


@pytest.mark.parametrize("status", [UNSUPPORTED, FAILURE, PERMISSION_DENIED])
async def test_what_is_offered_and_then_refused_is_done_without(folders: Folders, status: int) -> None:
    refused = REFUSED if status != UNSUPPORTED else (*REFUSED, "posix-rename")
    hostile = Hostile(refuse=dict.fromkeys(refused, status))
    hostile.tree.mkdir("/in")
    for size in SIZES:
        (folders.remote / str(size)).write_bytes(content(size))
    with running_hostile_server(folders.remote.parent / "server", hostile) as server:
        async with pool_of(server, connections=2) as pool, asyncio.timeout(240):
            (await upload(pool, folders.remote, "/in")).raise_for_errors()
            (await download(pool, "/in", folders.local)).raise_for_errors()
            assert await settled(pool)
        assert hostile.open_handles == []
    assert hostile.tree.files() == {f"/in/{size}": content(size) for size in SIZES}
    assert {path.name: path.read_bytes() for path in folders.local.iterdir()} == {str(n): content(n) for n in SIZES}


@pytest.mark.parametrize("switches", UNTOLD.values(), ids=UNTOLD)
async def test_download_reads_what_is_not_told_to_its_end(folders: Folders, switches: dict[str, Any]) -> None:
    assert await downloaded(serving(**switches), folders) == {}


async def test_attributes_that_are_told_cost_one_request_a_file(folders: Folders) -> None:
    hostile = serving()
    assert await downloaded(hostile, folders) == {}
    small = sum(size < 8 * 1024 * 1024 for size in SIZES)
    assert hostile.count("LSTAT") == 0
    assert hostile.count("FSTAT") <= 2 * (hostile.count("OPEN") - small)  # of the large one alone, by each connection


WRONG = {
    "one more": lambda size: size + 1,
    "far more": lambda size: 2 * size + 100_000,
    "beyond all bounds": lambda _: 2**63 + 5,
    "one less": lambda size: max(size - 1, 0),
    "half": lambda size: size // 2,
}


@pytest.mark.parametrize("claim", WRONG.values(), ids=WRONG)
@pytest.mark.promise("sftp-file-has-its-announced-size")
async def test_a_wrong_size_is_refused_with_the_truth(folders: Folders, claim: Any) -> None:
    errors = await got(serving(claim=claim_size(claim, *ALL)), folders)
    for size, error in errors.items():
        announced = claim(size)
        if announced in (0, size):
            assert error is None
        else:
            assert isinstance(error, SFTPFileChanged)
            assert f"{announced} bytes were announced" in str(error)
            assert "the server's sizes are wrong" in str(error)
            assert "read_to=" in str(error)


@pytest.mark.parametrize("claim", WRONG.values(), ids=WRONG)
async def test_read_to_eof_takes_no_notice_of_sizes(folders: Folders, claim: Any) -> None:
    assert set((await got(serving(claim=claim_size(claim, *ALL)), folders, read_to="eof")).values()) == {None}


@pytest.mark.parametrize("claim", WRONG.values(), ids=WRONG)
async def test_download_to_eof_takes_no_notice_of_sizes(folders: Folders, claim: Any) -> None:
    assert await downloaded(serving(claim=claim_size(claim, *ALL)), folders, read_to="eof") == {}


@pytest.mark.promise("sftp-file-has-its-announced-size")
async def test_a_download_of_wrong_sizes_never_passes_a_part_off_as_the_file(folders: Folders) -> None:
    failed = await downloaded(serving(claim=claim_size(WRONG["one less"], *ALL)), folders)
    assert set(failed) == {str(size) for size in SIZES if size > 1}
    assert all(isinstance(result.error, SFTPFileChanged) for result in failed.values())


@pytest.mark.parametrize("size", [0, 1000, 700_000, 9_000_000])
async def test_a_log_that_grows_is_taken_as_it_was(folders: Folders, size: int) -> None:
    hostile = Hostile(grows={b"/in/log": b"another line\n"})
    hostile.tree.write("/in/log", content(size))
    with running_hostile_server(folders.remote, hostile) as server:
        async with pool_of(server) as pool:
            with pytest.raises(SFTPFileChanged, match="snapshot"):
                await pool.get("/in/log", folders.local / "refused")
            report = await download(pool, "/in", folders.local, read_to="snapshot")
            report.raise_for_errors()
            assert await settled(pool)
    assert folders.left() == ["log"]
    assert (folders.local / "log").read_bytes().startswith(content(size))
    if size:
        assert report.bytes_done >= size


async def test_a_snapshot_has_the_size_that_the_file_had_when_it_was_opened(folders: Folders) -> None:
    hostile = Hostile(grows={b"/in/log": b"another line\n"})
    hostile.tree.write("/in/log", content(700_000))
    with running_hostile_server(folders.remote, hostile) as server:
        async with pool_of(server) as pool:
            transfer = await pool.get("/in/log", folders.local / "log", read_to="snapshot")
    assert transfer.size_bytes == 700_000
    assert (folders.local / "log").read_bytes() == content(700_000)


async def test_a_file_that_becomes_shorter_is_no_snapshot(folders: Folders) -> None:
    hostile = Hostile(eof_at={b"/in/log": 500_000})
    hostile.tree.write("/in/log", content(700_000))
    with running_hostile_server(folders.remote, hostile) as server:
        async with pool_of(server) as pool:
            with pytest.raises(SFTPFileChanged, match="it ends after 500000"):
                await pool.get("/in/log", folders.local / "log", read_to="snapshot")
            assert await settled(pool)
    assert folders.left() == []


async def test_a_file_that_is_being_written_is_not_taken_for_one_without_a_size(folders: Folders) -> None:
    """It had no bytes when it was opened, and has some now: half of an upload must not arrive as the whole of it."""
    hostile = Hostile()
    file = hostile.tree.write("/in/a", b"")

    def begin_to_write(request: Request) -> None:
        if request.kind == "READ":
            file.write(0, b"the first half")

    hostile.refuse_if = begin_to_write
    with running_hostile_server(folders.remote, hostile) as server:
        async with pool_of(server) as pool:
            with pytest.raises(SFTPFileChanged, match="it has 14 now"):
                await pool.get("/in/a", folders.local / "a")
            assert await settled(pool)
    assert folders.left() == []


async def test_read_to_must_be_one_of_three(folders: Folders) -> None:
    async with SFTPPool("127.0.0.1") as pool:
        with pytest.raises(SettingsError, match="snapshot"):
            await pool.get("/in/a", folders.local / "a", read_to="end")  # type: ignore[arg-type]
        with pytest.raises(SettingsError, match="snapshot"):
            await download(pool, "/in", folders.local, read_to="end")  # type: ignore[arg-type]


# -- files that the server hands out once --------------------------------------------------------------------------


@pytest.mark.parametrize("switches", [{}, refusing("FSTAT", status=NO_SUCH_FILE), {"read_bytes": 70_001}])
@pytest.mark.promise("sftp-read-once-opens-once")
async def test_a_file_that_is_handed_out_once_is_opened_once(folders: Folders, switches: dict[str, Any]) -> None:
    hostile = serving(one_time_reads=True, **switches)
    assert await downloaded(hostile, folders, read_once=True) == {}
    assert hostile.count("OPEN") == len(SIZES)
    places = [(request.path, request.offset) for request in hostile.of("READ")]
    assert len(places) == len(set(places))


def cut_while_reading(**switches: Any) -> Hostile:
    """A server that cuts its first connection when the second block of a file is read, and is itself again then."""
    hostile = Hostile(bad_sessions=1, **switches)
    hostile.hang_up_if = lambda request: request.kind == "READ" and request.offset > 0
    hostile.tree.write("/in/message", content(700_000))
    return hostile


async def many(pool: SFTPPool, local: Path, **how: Any) -> Exception | None:
    results = [result async for result in pool.get_many([("/in/message", local)], **how)]
    return results[0].error


async def one(pool: SFTPPool, local: Path, **how: Any) -> Exception | None:
    try:
        await pool.get("/in/message", local, **how)
    except Exception as error:
        return error
    return None


async def folder(pool: SFTPPool, local: Path, **how: Any) -> Exception | None:
    report = await download(pool, "/in", local.parent, **how)
    return report.errors[0].error if report.errors else None


@pytest.mark.parametrize("call", [one, many, folder])
async def test_what_is_used_up_by_a_lost_connection_is_said_to_be(folders: Folders, call: Any) -> None:
    hostile = cut_while_reading(one_time_reads=True)
    with running_hostile_server(folders.remote, hostile) as server:
        async with pool_of(server, connections=1) as pool:
            error = await call(pool, folders.local / "message")
    assert isinstance(error, SFTPReadInterrupted)
    assert "/in/message: the connection was lost while it was read" in str(error)
    assert folders.left() == []


@pytest.mark.parametrize("call", [one, many, folder])
async def test_read_once_never_opens_a_file_again(folders: Folders, call: Any) -> None:
    hostile = cut_while_reading()
    with running_hostile_server(folders.remote, hostile) as server:
        async with pool_of(server, connections=1) as pool:
            error = await call(pool, folders.local / "message", read_once=True)
            assert isinstance(error, SFTPReadInterrupted)
            assert hostile.count("OPEN") == 1
            assert await call(pool, folders.local / "message") is None  # the same without it
    assert (folders.local / "message").read_bytes() == content(700_000)


@pytest.mark.promise("sftp-read-once-opens-once")
async def test_read_once_has_the_file_on_the_disk_before_the_server_may_take_it(folders: Folders) -> None:
    hostile = Hostile()
    hostile.tree.write("/in/message", b"content")
    there = []

    def look(request: Request) -> None:
        if request.kind == "CLOSE":
            there.append((folders.local / "message").exists())

    hostile.refuse_if = look
    with running_hostile_server(folders.remote, hostile) as server:
        async with pool_of(server) as pool:
            await pool.get("/in/message", folders.local / "message", read_once=True)
            report = await download(pool, "/in/message", folders.local, read_once=True, fsync=True, skip="never")
            report.raise_for_errors()
            assert await settled(pool)
    assert there == [True, True]


async def test_a_large_file_that_is_handed_out_once_comes_over_the_connection_that_has_it(folders: Folders) -> None:
    """Even without read_once: the other connections, which cannot open it, must not spoil it."""
    hostile = Hostile(one_time_reads=True)
    hostile.tree.write("/in/message", content(20_000_000))
    with running_hostile_server(folders.remote, hostile) as server:
        async with pool_of(server, connections=3) as pool, asyncio.timeout(240):
            await asyncio.gather(*(pool.stat("/in") for _ in range(100)))  # so that there are several
            (await download(pool, "/in", folders.local)).raise_for_errors()
            assert await settled(pool)
    assert (folders.local / "message").read_bytes() == content(20_000_000)


async def test_a_large_file_that_nobody_may_open_has_one_error(folders: Folders) -> None:
    hostile = Hostile(refuse={"OPEN": PERMISSION_DENIED})
    hostile.tree.write("/in/large", content(20_000_000))
    with running_hostile_server(folders.remote, hostile) as server:
        async with pool_of(server, connections=3) as pool, asyncio.timeout(240):
            report = await download(pool, "/in", folders.local)
            assert await settled(pool)
    assert [type(result.error) for result in report.errors] == [SFTPPermissionDenied]
    assert folders.left() == []


async def test_a_large_file_that_is_used_up_by_lost_connections_is_said_to_be(folders: Folders) -> None:
    hostile = Hostile(one_time_reads=True, bad_sessions=1)
    hostile.hang_up_if = lambda request: request.kind == "READ" and request.offset > 10_000_000
    hostile.tree.write("/in/message", content(20_000_000))
    with running_hostile_server(folders.remote, hostile) as server:
        async with pool_of(server, connections=1) as pool, asyncio.timeout(240):
            report = await download(pool, "/in", folders.local)
            assert await settled(pool)
    assert [type(result.error) for result in report.errors] == [SFTPReadInterrupted]
    assert "hands it out only once" in str(report.errors[0].error)


async def test_a_stream_says_that_a_file_was_used_up_while_it_was_opened(folders: Folders) -> None:
    hostile = Hostile(bad_sessions=1)
    hostile.tree.write("/in/message", b"content")

    def take(request: Request) -> bool:
        if request.kind == "OPEN":
            hostile.tree.root.entries.clear()
        return request.kind == "OPEN"

    hostile.hang_up_if = take
    with running_hostile_server(folders.remote, hostile) as server:
        async with pool_of(server, connections=1) as pool:
            with pytest.raises(SFTPReadInterrupted, match="hands it out only once"):
                async with pool.open("/in/message"):
                    pass
