"""Servers that fall silent, hang up, and let in fewer than are wanted."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from asyncworker.errors import SFTPConnectError, SFTPError
from asyncworker.sftp import SFTPPool, download, upload
from tests.integration.sftp.conftest import Folders, ThroughSsh, in_mid_run, pool_of, pool_on
from tests.integration.sftp.test_get import settled
from tests.servers.sftp_hostile import Hostile, running_hostile_server

FILES = {f"{folder}{n}": random.Random(n).randbytes(n * 50) for folder in ("", "sub/") for n in range(150)}


def serving(**switches: Any) -> Hostile:
    hostile = Hostile(**switches)
    for name, content in FILES.items():
        hostile.tree.write(f"/in/{name}", content)
    return hostile


def arrived(folders: Folders) -> dict[str, bytes]:
    paths = (path for path in folders.local.rglob("*") if path.is_file())
    return {str(path.relative_to(folders.local)): path.read_bytes() for path in paths}


async def fetch(pool: SFTPPool, folders: Folders) -> None:
    (await asyncio.wait_for(download(pool, "/in", folders.local), 200)).raise_for_errors()
    assert arrived(folders) == FILES


# -- hanging up --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 2, 10, 200])
async def test_a_connection_that_is_cut_once_costs_no_file(folders: Folders, after: int) -> None:
    hostile = serving(hang_up_after=after, bad_sessions=1)
    async with pool_on(hostile, folders.remote, connections=2) as pool:
        await fetch(pool, folders)
        assert await settled(pool)
        assert hostile.open_handles == []
    assert hostile.hung_up == 1


async def test_the_first_request_of_a_download_is_tried_again_like_others(folders: Folders) -> None:
    hostile = serving(hang_up_if=lambda request: request.kind == "STAT", bad_sessions=2)
    async with pool_on(hostile, folders.remote, connections=1) as pool:
        await fetch(pool, folders)


async def test_a_server_that_dies_when_asked_for_its_space_gets_its_files(folders: Folders) -> None:
    hostile = Hostile(hang_up_if=lambda request: request.kind == "statvfs")
    hostile.tree.mkdir("/out")
    (folders.local / "a").write_bytes(b"content")
    async with pool_on(hostile, folders.remote) as pool:
        (await upload(pool, folders.local, "/out")).raise_for_errors()
        assert await settled(pool)
    assert hostile.tree.files("/out") == {"/out/a": b"content"}
    assert hostile.count("statvfs") >= 1


async def test_every_connection_is_cut_sooner_or_later(folders: Folders) -> None:
    """Each brings some of the files, and none is lost: a file is tried again on the next one."""
    hostile = serving(hang_up_after=400)
    async with pool_on(hostile, folders.remote, connections=1, in_flight=16) as pool:
        report = await asyncio.wait_for(download(pool, "/in", folders.local), 200)
        assert await settled(pool)
    done = arrived(folders)
    assert all(done[name] == content for name, content in FILES.items() if name in done)
    assert len(done) == report.files_done == len(FILES) - report.files_failed
    assert hostile.hung_up >= 1


@pytest.mark.parametrize("kind", ["OPEN", "READ", "CLOSE", "OPENDIR", "READDIR", "STAT", "FSTAT"])
async def test_a_server_that_dies_of_one_kind_of_request_ends_with_an_error(folders: Folders, kind: str) -> None:
    hostile = serving(hang_up_if=lambda request: request.kind == kind)
    async with pool_on(hostile, folders.remote, connections=1) as pool:
        async with asyncio.timeout(120):
            try:
                report = await download(pool, "/in", folders.local)
            except SFTPError:
                done = 0
            else:
                done = report.files_done
                # The listing may have been under way on the connection that died: it is one failure more.
                assert report.files_failed - (report.files_found - done) in (0, 1) or not report.files_found
        assert await settled(pool)
    assert len(arrived(folders)) == done
    assert all(FILES[name] == content for name, content in arrived(folders).items())


async def test_one_connection_and_one_file_at_once_means_few_requests_at_once(folders: Folders) -> None:
    """What a weak server can stand is one setting; it hangs up above that."""
    hostile = serving(delay_s=0.001)
    async with pool_on(hostile, folders.remote, connections=1, in_flight=1) as pool:
        await fetch(pool, folders)
    assert hostile.most_in_air <= 64


# -- silence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["asyncssh", "openssh"])
@pytest.mark.parametrize("kind", ["limits", "STAT", "OPENDIR", "READDIR", "OPEN", "READ"])
async def test_a_server_that_falls_silent_is_given_up(folders: Folders, kind: str, transport: str) -> None:
    hostile = serving(hang={kind})
    with running_hostile_server(folders.remote, hostile) as server:
        reached = ThroughSsh(server) if transport == "openssh" else server
        async with pool_of(reached, connections=1, connect_timeout_s=5, timeout_s=1) as pool:
            async with asyncio.timeout(200):
                with pytest.raises(SFTPError):
                    entries = [entry async for entry in pool.list("/in")]
                    await pool.stat("/in/1")
                    assert entries
                    await pool.get("/in/1", folders.local / "1")
            assert await settled(pool)


async def test_silence_once_costs_no_file(folders: Folders) -> None:
    hostile = serving(hang_after=100, bad_sessions=1)
    async with pool_on(hostile, folders.remote, connections=2, timeout_s=1) as pool:
        await fetch(pool, folders)
        assert await settled(pool)


async def test_one_request_without_an_answer_costs_no_other_file(folders: Folders) -> None:
    hostile = serving(hang_if=lambda request: request.kind == "OPEN" and request.path == b"/in/sub/7", bad_sessions=1)
    async with pool_on(hostile, folders.remote, connections=2, timeout_s=2) as pool:
        await fetch(pool, folders)
        assert await settled(pool)


async def test_a_slow_server_is_not_a_silent_one(folders: Folders) -> None:
    hostile = serving(delay_s=0.5)
    async with pool_on(hostile, folders.remote, connections=1, timeout_s=20) as pool:
        await fetch(pool, folders)
    assert len(hostile.sessions) == 1


async def test_a_caller_that_gives_up_on_a_silent_server_leaves_nothing(folders: Folders) -> None:
    hostile = serving(hang={"READ"})
    async with pool_on(hostile, folders.remote, connections=1) as pool:
        job = asyncio.create_task(pool.get("/in/1", folders.local / "1"))
        await in_mid_run(job, lambda: hostile.count("READ"))
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
    assert folders.left() == []


# -- few may come in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2])
async def test_fewer_connections_than_wanted(folders: Folders, most: int) -> None:
    hostile = serving(most_connections=most)
    async with pool_on(hostile, folders.remote, connections=6) as pool:
        await fetch(pool, folders)
    assert 1 <= len(hostile.sessions) <= most


async def test_no_connection_at_all_is_an_error(folders: Folders) -> None:
    hostile = serving(most_connections=0)
    async with pool_on(hostile, folders.remote) as pool:
        with pytest.raises(SFTPConnectError):
            await asyncio.wait_for(pool.stat("/in"), 120)


async def test_one_session_a_connection_is_all_that_is_used(folders: Folders) -> None:
    hostile = serving(most_sessions=1)
    async with pool_on(hostile, folders.remote, connections=4) as pool:
        await fetch(pool, folders)
    assert hostile.refused_sessions == 0


async def test_no_session_is_an_error(folders: Folders) -> None:
    hostile = serving(most_sessions=0)
    async with pool_on(hostile, folders.remote) as pool:
        with pytest.raises(SFTPConnectError):
            await asyncio.wait_for(pool.stat("/in"), 120)


async def test_idle_connections_that_are_cut_are_made_again(folders: Folders) -> None:
    hostile = serving(idle_s=0.5)
    async with pool_on(hostile, folders.remote, connections=2) as pool:
        for n in range(3):
            await pool.get(f"/in/{n}", folders.local / str(n))
            async with asyncio.timeout(120):
                while pool._connections.count:
                    await asyncio.sleep(0.01)
        assert await settled(pool)
    assert hostile.hung_up >= 3
    assert arrived(folders) == {name: FILES[name] for name in ("0", "1", "2")}


@pytest.mark.parametrize("handles", [6, 7, 20])
async def test_few_handles_that_are_not_announced(folders: Folders, handles: int) -> None:
    """It has no ``limits``; an OPEN beyond is a failure. One connection and few files at once suit it."""
    hostile = serving(without=("limits",), most_handles=handles)
    async with pool_on(hostile, folders.remote, connections=1, in_flight=handles - 2) as pool:
        await fetch(pool, folders)
        assert hostile.open_handles == []


# -- all at once, upwards ----------------------------------------------------------------------------------------------


async def test_uploads_over_connections_that_are_cut(folders: Folders) -> None:
    for name, content in FILES.items():
        (folders.local / name).parent.mkdir(exist_ok=True)
        (folders.local / name).write_bytes(content)
    hostile = Hostile(hang_up_after=300, bad_sessions=2)
    async with pool_on(hostile, folders.remote, connections=2) as pool:
        (await asyncio.wait_for(upload(pool, folders.local, "/up"), 200)).raise_for_errors()
        assert await settled(pool)
        async with asyncio.timeout(120):  # what the lost ones left is removed behind them
            while len(hostile.tree.files("/up")) > len(FILES):
                await asyncio.sleep(0.01)
    assert hostile.tree.files("/up") == {f"/up/{name}": content for name, content in FILES.items()}
    assert hostile.hung_up == 2
