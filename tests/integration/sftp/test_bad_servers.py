"""Servers that are limited, that change files under our hands, or that do not keep the protocol."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from asyncworker.errors import SFTPFileChanged, SFTPPermissionDenied, SFTPProtocolError
from asyncworker.sftp import Transfer
from tests.integration.sftp.conftest import Folders, pool_of
from tests.integration.sftp.test_get import settled
from tests.servers import sftp_wire as wire
from tests.servers.sftp import running_sftp_server
from tests.servers.sftp_scripted import CLOSE, FSTAT, OPEN, READ, Request, Scripted

CONTENTS = {f"/{n}".encode(): random.Random(n).randbytes(n * 700) for n in range(100)}


Results = list[Transfer | BaseException]


async def fetch_all(script: Scripted, folders: Folders, *, sessions_end: bool = False, **options: object) -> Results:
    """Get all files of the script at once; check that nothing is half-written, or left open on a session that lives."""
    with running_sftp_server(folders.local.parent / "server", raw=script) as server:
        async with pool_of(server, **options) as pool:
            jobs = (pool.get(path.decode(), folders.local / path.decode()[1:]) for path in script.files)
            results = await asyncio.wait_for(asyncio.gather(*jobs, return_exceptions=True), 60)
            assert await settled(pool)
            assert script.open_handles == [] or sessions_end
    done = {f"/{path.name}".encode(): path.read_bytes() for path in folders.local.iterdir()}
    assert all(script.files[path] == content for path, content in done.items())
    assert len(done) == sum(isinstance(result, Transfer) for result in results)
    return results


def all_arrived(results: Results) -> bool:
    return all(isinstance(result, Transfer) for result in results)


@pytest.mark.parametrize("read_bytes", [1000, 4096])
async def test_reads_that_are_shorter_than_asked_for(folders: Folders, read_bytes: int) -> None:
    assert all_arrived(await fetch_all(Scripted(CONTENTS, read_bytes=read_bytes), folders))


async def test_answers_in_another_order(folders: Folders) -> None:
    assert all_arrived(await fetch_all(Scripted(CONTENTS, reverse=True), folders))


async def test_a_server_that_does_not_tell_sizes(folders: Folders) -> None:
    assert all_arrived(await fetch_all(Scripted(CONTENTS, announced=dict.fromkeys(CONTENTS)), folders))


async def test_a_server_without_fstat(folders: Folders) -> None:
    def bend(request: Request, answer: bytes) -> bytes:
        return wire.status(request.id, 8) if request.kind == FSTAT else answer

    assert all_arrived(await fetch_all(Scripted(CONTENTS, bend=bend), folders))


@pytest.mark.parametrize("change", [-500, -1, 1, 500, 100_000])
async def test_files_that_change_their_size_are_never_kept(folders: Folders, change: int) -> None:
    announced = {path: len(content) + change for path, content in CONTENTS.items() if len(content) > 500}
    results = await fetch_all(Scripted(CONTENTS, announced=announced), folders)
    assert [isinstance(r, SFTPFileChanged) for r in results] == [path in announced for path in CONTENTS]


async def test_no_more_than_64_handles_without_limits(folders: Folders) -> None:
    most = 0

    def bend(request: Request, answer: bytes) -> bytes:
        nonlocal most
        most = max(most, len(script.open_handles))
        return answer

    script = Scripted(CONTENTS, bend=bend)
    assert all_arrived(await fetch_all(script, folders, connections=1))
    assert 1 < most <= 64


@pytest.mark.parametrize("kind", [OPEN, FSTAT, READ, CLOSE])
async def test_refusals_at_each_step_fail_that_file_only(folders: Folders, kind: int) -> None:
    def bend(request: Request, answer: bytes) -> bytes:
        if request.kind == kind and request.text.endswith(b"7"):
            if kind == OPEN:
                script.open_handles.remove(request.text)
            return wire.status(request.id, 3, b"not for you")
        return answer

    script = Scripted(CONTENTS, bend=bend)
    results = await fetch_all(script, folders)
    for path, result in zip(CONTENTS, results, strict=True):
        if path.endswith(b"7") and kind not in (FSTAT, CLOSE):  # what is not told is read; all bytes are here by then
            assert isinstance(result, SFTPPermissionDenied)
            assert "not for you" in str(result)
            assert result.path == path.decode()
        else:
            assert isinstance(result, Transfer)


FAULTS = {
    "an id that was never asked": lambda request, answer: wire.status(request.id + 5000, 0),
    "every answer twice": lambda request, answer: answer * 2,
    "a packet of 2 GB": lambda request, answer: b"\x7f\xff\xff\xff" + answer,
    "nonsense": lambda request, answer: b"\0\0\0\x09nonsense!",
    "more data than asked for": lambda request, answer: wire.data(request.id, b"x" * (request.length + 1)),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", [OPEN, READ, CLOSE])
async def test_a_broken_protocol_ends_the_session_and_nothing_hangs(folders: Folders, fault: str, kind: int) -> None:
    def bend(request: Request, answer: bytes) -> bytes:
        return FAULTS[fault](request, answer) if request.kind == kind and request.text.endswith(b"7") else answer

    results = await fetch_all(Scripted(CONTENTS, bend=bend), folders, sessions_end=True)
    failed = [result for result in results if not isinstance(result, Transfer)]
    assert failed or kind == CLOSE
    assert all(isinstance(result, SFTPProtocolError) for result in failed)


@pytest.mark.parametrize("greeting", [b"Last login: today\n", wire.version(6), b"\0\0\0\0", b"\xff" * 100])
async def test_a_greeting_that_is_no_sftp(tmp_path: Path, greeting: bytes) -> None:
    with running_sftp_server(tmp_path, raw=Scripted(greeting=greeting)) as server:
        async with pool_of(server) as pool:
            with pytest.raises(SFTPProtocolError, match=f"127.0.0.1:{server.port}: not SFTP version 3"):
                await pool.get("/a", tmp_path / "a")
            assert pool._connections.count == 0
            assert pool._connections.in_flight == 0
