"""How much is asked of a server at once, and what becomes of it where that is too much."""

from __future__ import annotations

import asyncio
import logging
import random
from pathlib import Path
from typing import Any

import pytest

from asyncworker import sftp
from asyncworker.errors import SFTPAuthError
from asyncworker.sftp import SFTPPool, download, upload
from asyncworker.sftp.options import Options
from asyncworker.sftp.transports import Receiver, Transport, connect_asyncssh
from tests.integration.sftp.conftest import Folders, ThroughSsh, configured, pool_of
from tests.integration.sftp.test_connections import check, make_files
from tests.servers.sftp import SFTPServer
from tests.servers.sftp_hostile import Hostile, running_hostile_server
from tests.servers.sshd import Sshd

WAYS = pytest.mark.parametrize("transport", ["asyncssh", "openssh"])


def filled(hostile: Hostile, count: int, size: int = 900, large: int = 0) -> dict[str, bytes]:
    """Files of a server's folder ``/in``, one of them large if that is asked for."""
    files = {f"{number}": random.Random(number).randbytes(size) for number in range(count)}
    if large:
        files["large"] = random.Random(-1).randbytes(large)
    for name, content in files.items():
        hostile.tree.write(f"/in/{name}", content)
    return files


def here(folder: Path) -> dict[str, bytes]:
    """Names and contents of a local folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def through(transport: str, server: SFTPServer, **options: Any) -> SFTPPool:
    return pool_of(ThroughSsh(server) if transport == "openssh" else server, **options)  # type: ignore[arg-type]


# -- what is set is what the server sees -----------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize("in_flight", [1, 2, 7])
@pytest.mark.promise("sftp-in-flight-is-a-bound")
async def test_so_many_requests_in_the_air_and_no_more(
    tmp_path: Path, folders: Folders, transport: str, in_flight: int
) -> None:
    hostile = Hostile(delay_s=0.001)
    files = filled(hostile, 40, large=300_000)
    with running_hostile_server(tmp_path / "server", hostile) as server:
        async with asyncio.timeout(120), through(transport, server, connections=1, in_flight=in_flight) as pool:
            (await download(pool, "/in", folders.local)).raise_for_errors()
            (await upload(pool, folders.local, "/out")).raise_for_errors()
            await asyncio.gather(*(pool.stat(f"/out/{name}") for name in files))
    assert here(folders.local) == files
    assert hostile.most_in_air <= in_flight
    assert len(hostile.sessions) == 1


@pytest.mark.promise("sftp-in-flight-is-a-bound")
async def test_requests_are_counted_over_all_connections(tmp_path: Path, folders: Folders) -> None:
    most = 0
    hostile = Hostile(delay_s=0.002)
    files = filled(hostile, 200)
    with running_hostile_server(tmp_path / "server", hostile) as server:
        async with asyncio.timeout(120), pool_of(server, connections=4, in_flight=6) as pool:
            job = asyncio.create_task(download(pool, "/in", folders.local))
            while not job.done():
                in_air = sum(session.protocol.requests_out for session in pool._connections._sessions)
                most = max(most, in_air)
                await asyncio.sleep(0)
            (await job).raise_for_errors()
    assert 1 < most <= 6
    assert here(folders.local) == files


@pytest.mark.parametrize("window_bytes", [20_000, 100_000])
async def test_so_many_bytes_asked_for_or_sent_and_no_more(tmp_path: Path, folders: Folders, window_bytes: int) -> None:
    hostile = Hostile(delay_s=0.001)
    files = filled(hostile, 20, size=30_000, large=1_500_000)
    most = 0
    with running_hostile_server(tmp_path / "server", hostile) as server:
        async with asyncio.timeout(120), pool_of(server, connections=2, window_bytes=window_bytes) as pool:

            async def run() -> None:
                (await download(pool, "/in", folders.local)).raise_for_errors()
                (await upload(pool, folders.local, "/out")).raise_for_errors()

            job = asyncio.create_task(run())
            while not job.done():
                most = max(most, sum(session.bytes_out for session in pool._connections._sessions))
                await asyncio.sleep(0)
            await job
    assert 0 < most <= window_bytes
    assert here(folders.local) == files
    assert {name: hostile.tree.read(f"/out/{name}") for name in files} == files


async def test_gentle_is_one_connection_and_few_requests(tmp_path: Path, folders: Folders) -> None:
    assert SFTPPool("host", gentle=True, in_flight=9).options.in_flight == 9
    hostile = Hostile(delay_s=0.001)
    files = filled(hostile, 50)
    with running_hostile_server(tmp_path / "server", hostile) as server:
        async with asyncio.timeout(120), pool_of(server, gentle=True) as pool:
            (await download(pool, "/in", folders.local)).raise_for_errors()
    assert here(folders.local) == files
    assert hostile.most_in_air <= 4
    assert len(hostile.sessions) == 1


async def test_with_one_request_at_a_time_a_stream_does_not_keep_others_out(tmp_path: Path) -> None:
    hostile = Hostile()
    hostile.tree.write("/in/a", b"content")
    with running_hostile_server(tmp_path / "server", hostile) as server:
        async with (
            asyncio.timeout(120),
            pool_of(server, connections=1, in_flight=1) as pool,
            pool.open("/in/a") as one,
            pool.open("/in/a") as two,
        ):
            assert (await pool.stat("/in/a")).size_bytes == 7
            assert await one.read() == await two.read() == b"content"
    assert hostile.most_in_air == 1


# -- connections are opened as they are needed -----------------------------------------------------------------------


async def counted(server: Sshd | SFTPServer, **options: Any) -> tuple[SFTPPool, list[int]]:
    """A pool, and a list that grows with each connection that is begun."""
    begun: list[int] = []

    async def connect(wanted: Options, receiver: Receiver) -> Transport:
        begun.append(len(begun))
        return await connect_asyncssh(wanted, receiver)

    return SFTPPool.from_options(pool_of(server, **options).options, connect), begun


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_one_small_file_takes_one_connection(sshd: Sshd, folders: Folders, size: int) -> None:
    folders.make("a", b"x" * size)
    pool, begun = await counted(sshd, connections=8)
    async with pool:
        await pool.get(folders.remote / "a", folders.local / "a")
        (await upload(pool, folders.local, folders.remote / "out")).raise_for_errors()
    assert len(begun) == 1


async def test_many_files_take_all_connections(sshd: Sshd, folders: Folders) -> None:
    files = make_files(folders, 1500)
    pool, begun = await counted(sshd, connections=3)
    async with pool:
        (await sftp.download(pool, folders.remote, folders.local)).raise_for_errors()
    assert len(begun) == 3
    check(folders, files)


@pytest.mark.parametrize("login", ["key", "password"])
async def test_a_login_that_is_refused_is_tried_once(
    _asyncssh_server: SFTPServer, folders: Folders, tmp_path: Path, login: str
) -> None:
    """However much waits for it: servers count the attempts, and lock the account or the address."""
    import asyncssh

    asyncssh.generate_private_key("ssh-ed25519").write_private_key(tmp_path / "other")
    wrong = {"client_keys": tmp_path / "other"} if login == "key" else {"client_keys": None, "password": "no"}
    pool, begun = await counted(_asyncssh_server, connections=8, **wrong)
    async with pool:
        jobs = [pool.get(f"/{number}", folders.local / "a") for number in range(500)]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        assert all(isinstance(result, SFTPAuthError) for result in results)
        assert len(begun) == 1


# -- a server that cannot take it ------------------------------------------------------------------------------------


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings about the load."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and "going on with" in record.getMessage()
    ]


@WAYS
@pytest.mark.parametrize("hang_up_above", [100, 20, 3, 1])
@pytest.mark.parametrize("call", ["download", "get", "get_many", "upload"])
@pytest.mark.promise("sftp-load-adapts")
async def test_a_server_that_hangs_up_under_load_gets_less_until_it_copes(
    tmp_path: Path, folders: Folders, caplog: pytest.LogCaptureFixture, transport: str, hang_up_above: int, call: str
) -> None:
    hostile = Hostile(delay_s=0.001, hang_up_above=hang_up_above)
    files = filled(hostile, 400 + 5 * hang_up_above)  # too many for each of four connections
    with running_hostile_server(tmp_path / "server", hostile) as server:
        async with asyncio.timeout(240), through(transport, server) as pool:
            with caplog.at_level(logging.WARNING):
                if call == "download":
                    (await download(pool, "/in", folders.local)).raise_for_errors()
                elif call == "get":
                    await asyncio.gather(*(pool.get(f"/in/{name}", folders.local / name) for name in files))
                elif call == "get_many":
                    pairs = [(f"/in/{name}", folders.local / name) for name in files]
                    async for result in pool.get_many(pairs):
                        assert result.ok, result.error
                else:
                    for name, content in files.items():
                        (folders.local / name).write_bytes(content)
                    (await upload(pool, folders.local, "/out")).raise_for_errors()
                    assert {name: hostile.tree.read(f"/out/{name}") for name in files} == files
    assert here(folders.local) == files
    assert hostile.hung_up
    assert len(said(caplog)) == 1
    assert "hung up under load" in said(caplog)[0]


@WAYS
@pytest.mark.parametrize("most_connections", [1, 2, 3])
async def test_a_server_that_takes_few_connections_serves_all_through_those(
    tmp_path: Path, folders: Folders, caplog: pytest.LogCaptureFixture, transport: str, most_connections: int
) -> None:
    hostile = Hostile(delay_s=0.002, most_connections=most_connections)
    files = filled(hostile, 400)
    with running_hostile_server(tmp_path / "server", hostile) as server:
        async with asyncio.timeout(240), through(transport, server, connections=6) as pool:
            with caplog.at_level(logging.WARNING):
                await asyncio.gather(*(pool.get(f"/in/{name}", folders.local / name) for name in files))
                (await download(pool, "/in", folders.local / "again")).raise_for_errors()
                while pool._connections._making:
                    await asyncio.sleep(0.01)
    assert here(folders.local / "again") == files
    assert len(said(caplog)) == 1


@WAYS
@configured("MaxStartups 1:100:1")
async def test_a_server_that_takes_one_login_at_a_time(own_sshd: Sshd, folders: Folders, transport: str) -> None:
    files = make_files(folders, 300)
    async with asyncio.timeout(240), through(transport, own_sshd, connections=6) as pool:  # type: ignore[arg-type]
        await asyncio.gather(*(pool.get(path, folders.local / name) for name, path in files.items()))
    check(folders, files)


async def test_a_single_file_whose_connection_is_lost_does_not_reduce_the_load(
    tmp_path: Path, folders: Folders, caplog: pytest.LogCaptureFixture
) -> None:
    hostile = Hostile(hang_up_after=2, bad_sessions=1)
    hostile.tree.write("/in/a", b"content")
    with running_hostile_server(tmp_path / "server", hostile) as server:
        async with asyncio.timeout(120), pool_of(server) as pool:
            with caplog.at_level(logging.WARNING):
                await pool.get("/in/a", folders.local / "a")
            assert pool._connections._traffic.requests == pool.options.in_flight
    assert said(caplog) == []
