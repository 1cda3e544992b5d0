"""Time limits: a server that falls silent, in the middle of its work or before it begins."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import psutil
import pytest

from asyncworker.errors import SFTPConnectError, SFTPConnectionLost, SFTPError, SFTPTimeout
from asyncworker.sftp import SFTPPool, download
from tests.integration.sftp.conftest import Folders, ThroughSsh, configured, pool_of
from tests.integration.sftp.test_get import settled
from tests.servers.sftp import SFTPServer
from tests.servers.sftp_hostile import Hostile, running_hostile_server
from tests.servers.sshd import Sshd

WAYS = pytest.mark.parametrize("transport", ["asyncssh", "openssh"])
EXTERNAL = configured("Subsystem sftp /usr/lib/openssh/sftp-server")


def through(transport: str, server: Sshd | SFTPServer, **options: object) -> SFTPPool:
    """A pool on that server, by the program ssh or without it."""
    return pool_of(ThroughSsh(server) if transport == "openssh" else server, **options)  # type: ignore[arg-type]


def serving(server: Sshd) -> list[psutil.Process]:
    """What serves SFTP behind an sshd that lives on, and answers keepalives, when these are stopped."""
    found = []
    for process in server.sessions():
        with contextlib.suppress(psutil.NoSuchProcess):  # what led to a connection may end now
            if process.name() == "sftp-server":
                found.append(process)
    return found


@WAYS
@EXTERNAL
@pytest.mark.promise("sftp-silent-server-is-given-up")
async def test_a_server_process_that_hangs_is_given_up_and_another_one_asked(
    own_sshd: Sshd, folders: Folders, transport: str
) -> None:
    path = folders.make("a", b"x" * 3_000_000)
    async with asyncio.timeout(120), through(transport, own_sshd, timeout_s=1.0) as pool:
        await pool.stat(path)
        [process] = await asyncio.to_thread(serving, own_sshd)
        process.suspend()
        await pool.get(path, folders.local / "a")
        assert await settled(pool)
    assert (folders.local / "a").read_bytes() == b"x" * 3_000_000


@WAYS
@EXTERNAL
async def test_a_download_goes_on_past_processes_that_hang(
    own_sshd: Sshd, folders: Folders, tmp_path: Path, transport: str
) -> None:
    names = {f"{number}" for number in range(600)}
    for name in names:
        folders.make(name, name.encode() * 5000)
    async with asyncio.timeout(180), through(transport, own_sshd, timeout_s=1.0) as pool:
        (await download(pool, folders.remote, tmp_path / "before")).raise_for_errors()  # makes the connections
        processes = await asyncio.to_thread(serving, own_sshd)
        job = asyncio.create_task(download(pool, folders.remote, folders.local))
        while not folders.left():
            await asyncio.sleep(0)
        for process in processes:
            process.suspend()
        assert not job.done()
        (await job).raise_for_errors()
    assert processes
    assert set(folders.left()) == names


@WAYS
@pytest.mark.parametrize("kind", ["OPEN", "READ", "CLOSE", "STAT", "OPENDIR", "READDIR", "WRITE", "REMOVE", "MKDIR"])
@pytest.mark.promise("sftp-silent-server-is-given-up")
async def test_a_request_that_is_never_answered_ends_with_the_server_and_the_seconds(
    tmp_path: Path, folders: Folders, transport: str, kind: str
) -> None:
    hostile = Hostile(hang=(kind,))
    hostile.tree.write("/in/a", b"content")
    (folders.local / "b").write_bytes(b"b")
    with running_hostile_server(tmp_path / "server", hostile) as server:
        async with asyncio.timeout(120), through(transport, server, timeout_s=0.4) as pool:
            call = {
                "STAT": lambda: pool.stat("/in/a"),
                "OPENDIR": lambda: anext(pool.list("/in")),
                "READDIR": lambda: anext(pool.list("/in")),
                "WRITE": lambda: pool.put(folders.local / "b", "/in/b"),
                "REMOVE": lambda: pool.remove("/in/a"),
                "MKDIR": lambda: pool.mkdir("/in/c"),
            }.get(kind, lambda: pool.get("/in/a", folders.local / "a"))
            if kind == "CLOSE":  # the file is whole before that; its place has to come back all the same
                await call()
                while pool._connections.in_flight:
                    await asyncio.sleep(0.01)
            else:
                with pytest.raises(SFTPTimeout, match=rf"127\.0\.0\.1:{server.port}.* 0\.4 s") as caught:
                    await call()
                assert isinstance(caught.value, SFTPConnectionLost)
            hostile.hang = ()
            await pool.get("/in/a", folders.local / "a")
    assert (folders.local / "a").read_bytes() == b"content"


@WAYS
async def test_connecting_includes_everything_until_the_first_request(tmp_path: Path, transport: str) -> None:
    """The server logs us in and starts the subsystem, but never sends its VERSION."""
    hostile = Hostile(hang=True)
    with running_hostile_server(tmp_path / "server", hostile) as server:
        async with asyncio.timeout(120), through(transport, server, connect_timeout_s=1.5) as pool:
            with pytest.raises(SFTPConnectError, match=rf"127\.0\.0\.1:{server.port}.*within 1\.5 s"):
                await pool.stat("/")


async def test_a_slow_server_is_not_a_silent_one(tmp_path: Path, folders: Folders) -> None:
    """Each answer resets the clock: a transfer that takes many times as long as the limit is left alone."""
    hostile = Hostile(delay_s=0.3, read_bytes=10_000)
    hostile.tree.write("/in/a", b"x" * 60_000)
    with running_hostile_server(tmp_path / "server", hostile) as server:
        async with asyncio.timeout(120), pool_of(server, timeout_s=2.0, in_flight=1, connections=1) as pool:
            await pool.get("/in/a", folders.local / "a")
            assert len(hostile.sessions) == 1
    assert (folders.local / "a").read_bytes() == b"x" * 60_000


async def test_an_idle_connection_is_not_a_silent_one(tmp_path: Path) -> None:
    hostile = Hostile()
    with running_hostile_server(tmp_path / "server", hostile) as server:
        async with asyncio.timeout(120), pool_of(server, timeout_s=0.2) as pool:
            await pool.stat("/")
            await asyncio.sleep(1)
            await pool.stat("/")
    assert len(hostile.sessions) == 1


async def test_a_loop_that_was_blocked_does_not_make_answers_late(tmp_path: Path) -> None:
    hostile = Hostile()
    with running_hostile_server(tmp_path / "server", hostile) as server:
        async with asyncio.timeout(120), pool_of(server, timeout_s=0.5, connections=1) as pool:
            await pool.stat("/")
            asked = asyncio.create_task(pool.stat("/"))
            await asyncio.sleep(0)
            session = pool._connections._sessions[0]
            asyncio.get_running_loop().call_soon(time.sleep, 2)
            await asked
            assert pool._connections._sessions == [session]


@WAYS
async def test_closing_a_pool_on_a_server_that_hangs_takes_no_longer_than_its_bounds(
    tmp_path: Path, transport: str
) -> None:
    hostile = Hostile(hang=("STAT",))
    with running_hostile_server(tmp_path / "server", hostile) as server:
        pool = through(transport, server)
        async with asyncio.timeout(120):
            asked = asyncio.create_task(pool.stat("/"))
            while not hostile.count("STAT"):
                await asyncio.sleep(0.01)
            await pool.close()
            with pytest.raises(SFTPError, match="closed"):
                await asked


@WAYS
async def test_connections_that_the_server_drops_when_idle_are_made_anew(
    tmp_path: Path, folders: Folders, transport: str
) -> None:
    hostile = Hostile(idle_s=1.5)  # ssh tells of it when it likes: a call may come before that
    hostile.tree.write("/in/a", b"content")
    with running_hostile_server(tmp_path / "server", hostile) as server:
        async with asyncio.timeout(120), through(transport, server) as pool:
            for number, call in enumerate(
                (
                    lambda: pool.get("/in/a", folders.local / "a"),
                    lambda: pool.rename("/in/a", "/in/b"),
                    lambda: pool.mkdir("/in/c"),
                    lambda: pool.remove("/in/b"),
                )
            ):
                await call()
                while hostile.hung_up <= number:
                    await asyncio.sleep(0.01)
    assert len(hostile.sessions) == 4
    with contextlib.suppress(FileNotFoundError):
        assert (folders.local / "a").read_bytes() == b"content"


async def test_a_connection_dropped_just_now_is_no_failure_of_a_call_that_cannot_be_repeated(tmp_path: Path) -> None:
    """The end of the connection has arrived, and nobody has read it yet when the call is made."""
    hostile = Hostile()
    hostile.tree.write("/in/0", b"content")
    with running_hostile_server(tmp_path / "server", hostile) as server:
        async with asyncio.timeout(120), pool_of(server) as pool:
            for number in range(20):
                await pool.stat("/")
                server.drop_connections()  # the loop stands still meanwhile
                time.sleep(0.02)
                await pool.rename(f"/in/{number}", f"/in/{number + 1}")
