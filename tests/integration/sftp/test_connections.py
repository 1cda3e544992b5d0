"""Connections: refused, dropped, limited, ramped, replaced."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import asyncssh
import pytest

from asyncworker import sftp
from asyncworker.errors import (
    SFTPAuthError,
    SFTPConnectError,
    SFTPConnectionLost,
    SFTPError,
    SFTPHostKeyError,
)
from asyncworker.resources import lifetimes
from asyncworker.sftp import SFTPPool, Transfer
from asyncworker.sftp.options import Options
from asyncworker.sftp.transports import Receiver, Transport, connect_asyncssh
from tests.integration.sftp.conftest import Folders, behind, configured, in_mid_run, pool_of
from tests.integration.sftp.test_get import settled
from tests.servers import sftp_wire as wire
from tests.servers.proxy import running_proxy
from tests.servers.sftp import SFTPServer, running_sftp_server
from tests.servers.sftp_scripted import OPEN, READ, Request, Scripted
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer


def make_files(folders: Folders, count: int, size: int = 20_000) -> dict[str, str]:
    """Names and their paths on the server."""
    return {f"{number}.xml": folders.make(f"{number}.xml", os.urandom(size)) for number in range(count)}


def check(folders: Folders, names: object) -> None:
    """Those files, and nothing else, are here and whole."""
    assert set(folders.left()) == set(names)  # type: ignore[call-overload]
    for name in folders.left():
        assert (folders.local / name).read_bytes() == (folders.remote / name).read_bytes()


# -- whom we talk to -------------------------------------------------------------------------------------------------


@pytest.mark.promise("host-keys-are-checked")
async def test_another_host_key_is_refused_with_all_that_one_needs(server: Server, tmp_path: Path) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{server.port} {other}")
    found = asyncssh.read_known_hosts(str(server.known_hosts)).match("127.0.0.1", "127.0.0.1", server.port)[0][0]
    async with pool_of(server, known_hosts=known_hosts) as pool:
        with pytest.raises(SFTPHostKeyError) as caught:
            await pool.get("/a", tmp_path / "a")
    message = str(caught.value)
    assert f"127.0.0.1:{server.port}" in message
    assert found.get_fingerprint() in message
    assert str(known_hosts) in message
    assert f"ssh-keyscan -p {server.port}" in message
    assert caught.value.host == f"127.0.0.1:{server.port}"


async def test_a_known_key_of_another_kind_is_told_the_same_way(server: Server, tmp_path: Path) -> None:
    other = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_public_key().decode()
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{server.port} {other}")
    async with pool_of(server, known_hosts=known_hosts) as pool:
        with pytest.raises(SFTPHostKeyError, match=r"ssh-ed25519 SHA256:"):
            await pool.stat("/")


@pytest.mark.promise("host-keys-are-checked")
async def test_a_host_that_is_not_known_is_refused(server: Server, tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path / "empty"):
        if path.name == "empty":
            path.touch()
        async with pool_of(server, known_hosts=path) as pool:
            with pytest.raises(SFTPHostKeyError, match=path.name):
                await pool.stat("/")


async def test_known_hosts_is_the_users_file_unless_told_otherwise(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    login = {"port": server.port, "username": server.username, "client_keys": server.client_key}
    async with SFTPPool(server.host, **login) as pool:
        with pytest.raises(SFTPHostKeyError, match=str(tmp_path / ".ssh" / "known_hosts")):
            await pool.stat("/")
    (tmp_path / ".ssh" / "known_hosts").write_bytes(server.known_hosts.read_bytes())
    async with SFTPPool(server.host, **login) as pool:
        assert (await pool.stat("/")).is_dir


async def test_the_check_can_be_switched_off_and_only_by_saying_so(server: Server) -> None:
    async with pool_of(server, known_hosts=None) as pool:
        assert (await pool.stat("/")).is_dir


# -- who we are ------------------------------------------------------------------------------------------------------


async def test_a_wrong_key(server: Server, tmp_path: Path) -> None:
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(tmp_path / "other_key")
    async with pool_of(server, client_keys=tmp_path / "other_key") as pool:
        with pytest.raises(SFTPAuthError, match="other_key"):
            await pool.stat("/")


async def test_a_key_file_that_is_not_there(server: Server, tmp_path: Path) -> None:
    async with pool_of(server, client_keys=tmp_path / "no_key") as pool:
        with pytest.raises(SFTPConnectError, match="no_key"):
            await pool.stat("/")


async def test_passwords(_asyncssh_server: SFTPServer) -> None:
    server = _asyncssh_server
    async with pool_of(server, client_keys=None, password=server.password) as pool:
        assert (await pool.stat("/")).is_dir
    async with pool_of(server, client_keys=None, password="hunter2") as pool:
        with pytest.raises(SFTPAuthError) as caught:
            await pool.stat("/")
    assert "hunter2" not in str(caught.value)
    assert "tester" in str(caught.value)


# -- nobody, or nobody useful ----------------------------------------------------------------------------------------


async def test_nobody_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with SFTPPool("127.0.0.1", port=port, known_hosts=None) as pool:
        results = await asyncio.gather(*(pool.get("/a", tmp_path / "a") for _ in range(100)), return_exceptions=True)
    assert all(isinstance(result, SFTPConnectError) and str(port) in str(result) for result in results)


async def test_a_server_that_says_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        async with SFTPPool("127.0.0.1", port=port, known_hosts=None, connect_timeout_s=0.2) as pool:
            with pytest.raises(SFTPConnectError, match=r"within 0\.2 s"):
                await pool.stat("/")


@configured("Subsystem sftp /not/there")
async def test_a_login_without_sftp(own_sshd: Sshd, folders: Folders) -> None:
    async with pool_of(own_sshd) as pool:
        with pytest.raises(SFTPError):
            await pool.stat("/")


async def test_a_session_that_never_answers(tmp_path: Path) -> None:
    with running_sftp_server(tmp_path, raw=Scripted(greeting=b"")) as server:
        async with pool_of(server, connect_timeout_s=5) as pool:
            with pytest.raises(SFTPConnectError, match="no SFTP session within"):
                await pool.stat("/")


# -- how many --------------------------------------------------------------------------------------------------------


async def test_light_use_takes_one_connection_and_load_takes_all(server: Server, folders: Folders) -> None:
    files = make_files(folders, 1500)
    async with pool_of(server, connections=3) as pool:
        for name, path in list(files.items())[:5]:
            await pool.get(path, folders.local / name)
        assert pool._connections.count == 1
        await asyncio.gather(*(pool.get(path, folders.local / name) for name, path in files.items()))
        while pool._connections._making:  # the first may have done it all before the others were ready
            await asyncio.sleep(0.001)
        assert 1 < pool._connections.count <= 3
    check(folders, files)


class CountedConnections:
    """Makes connections of transport asyncssh; counts those begun, in all and when each had logged in."""

    def __init__(self) -> None:
        self.begun = 0
        self.begun_at_login: list[int] = []

    async def __call__(self, options: Options, receiver: Receiver) -> Transport:
        self.begun += 1
        transport = await connect_asyncssh(options, receiver)
        self.begun_at_login.append(self.begun)
        return transport


async def test_a_password_is_tried_once_before_it_is_used_for_all(
    _asyncssh_server: SFTPServer, folders: Folders
) -> None:
    files = make_files(folders, 1500)

    async def fetch(password: str, *, back: bool = False) -> CountedConnections:
        connect = CountedConnections()
        options = pool_of(_asyncssh_server, client_keys=None, password=password, connections=4).options
        async with SFTPPool.from_options(options, connect) as pool:
            try:
                if back:
                    await sftp.upload(pool, folders.local, folders.remote / "back")
                (await sftp.download(pool, folders.remote, folders.local)).raise_for_errors()
            except SFTPAuthError:
                assert password == "hunter2"
        return connect

    counted = await fetch(_asyncssh_server.password)
    assert counted.begun_at_login[0] == 1
    assert counted.begun == 4
    check(folders, files)
    assert (await fetch("hunter2")).begun == 1
    assert (await fetch("hunter2", back=True)).begun == 1


async def test_with_a_key_all_connections_of_a_download_are_made_at_once(
    _asyncssh_server: SFTPServer, folders: Folders
) -> None:
    files = make_files(folders, 3)
    connect = CountedConnections()
    options = pool_of(_asyncssh_server, connections=4).options
    async with SFTPPool.from_options(options, connect) as pool:
        (await sftp.download(pool, folders.remote, folders.local)).raise_for_errors()
    check(folders, files)
    assert connect.begun_at_login[0] == 4


@configured("LogLevel VERBOSE")
async def test_a_key_that_is_refused_is_tried_once(own_sshd: Sshd, folders: Folders, tmp_path: Path) -> None:
    make_files(folders, 3)
    key = asyncssh.generate_private_key("ssh-ed25519")
    await asyncio.to_thread(key.write_private_key, tmp_path / "key")

    async def refused() -> int:
        return (await asyncio.to_thread(own_sshd.log)).count("Failed publickey")

    for connections in (4, 8):
        before = await refused()
        connect = CountedConnections()
        options = pool_of(own_sshd, client_keys=tmp_path / "key", connections=connections).options
        async with SFTPPool.from_options(options, connect) as pool:
            with pytest.raises(SFTPAuthError):
                await sftp.download(pool, folders.remote, folders.local)
            assert connect.begun == connections  # they were made side by side all the same
        assert await refused() == before + 1
    async with pool_of(own_sshd) as pool:  # and one that is taken, by all of them
        (await sftp.download(pool, folders.remote, folders.local)).raise_for_errors()


@configured("MaxSessions 1")
async def test_one_session_a_connection_is_all_that_is_needed(own_sshd: Sshd, folders: Folders) -> None:
    files = make_files(folders, 300)
    async with pool_of(own_sshd) as pool:
        await asyncio.gather(*(pool.get(path, folders.local / name) for name, path in files.items()))
    check(folders, files)


@configured(open_files=32)
async def test_few_handles_are_respected(own_sshd: Sshd, folders: Folders) -> None:
    files = make_files(folders, 400)
    async with pool_of(own_sshd) as pool:
        await asyncio.gather(*(pool.get(path, folders.local / name) for name, path in files.items()))
        assert all(1 <= session.capacity < 32 for session in pool._connections._sessions)
    check(folders, files)


@configured("MaxStartups 2:100:2")
async def test_a_server_that_drops_connections_gets_fewer(own_sshd: Sshd, folders: Folders) -> None:
    files = make_files(folders, 500)
    async with pool_of(own_sshd, connections=8) as pool:
        await asyncio.gather(*(pool.get(path, folders.local / name) for name, path in files.items()))
        assert pool._connections.count >= 1
    check(folders, files)


async def test_a_server_that_takes_two_logins_and_no_more(tmp_path: Path, folders: Folders) -> None:
    files = make_files(folders, 500)
    with running_sftp_server(tmp_path / "server", most_logins=2) as server:
        async with pool_of(server, connections=6) as pool:
            await asyncio.gather(*(pool.get(path, folders.local / name) for name, path in files.items()))
            assert 1 <= pool._connections.count <= 2
    check(folders, files)


# -- lost ------------------------------------------------------------------------------------------------------------


async def test_connections_killed_in_mid_run(own_sshd: Sshd, folders: Folders) -> None:
    files = make_files(folders, 1500) | {"large": folders.make("large", os.urandom(40_000_000))}
    with running_proxy(own_sshd.port) as proxy:
        async with pool_of(own_sshd, **behind(proxy, own_sshd)) as pool:
            jobs = {name: asyncio.create_task(pool.get(path, folders.local / name)) for name, path in files.items()}
            await in_mid_run(jobs["large"], lambda: any(job.done() for job in jobs.values()))
            proxy.partition()
            assert not jobs["large"].done()
            assert await asyncio.to_thread(own_sshd.kill_sessions) > 0
            proxy.heal()
            results = await asyncio.gather(*jobs.values(), return_exceptions=True)
            assert await settled(pool)
        # Each file had a second try on a new connection.
        assert [result for result in results if not isinstance(result, Transfer)] == []
    check(folders, files)


async def test_connections_cut_again_and_again(tmp_path: Path, folders: Folders) -> None:
    files = make_files(folders, 1500)
    with running_sftp_server(tmp_path / "server") as server:
        async with pool_of(server) as pool:
            jobs = {name: asyncio.create_task(pool.get(path, folders.local / name)) for name, path in files.items()}
            cut, left = 0, set(jobs.values())
            while left and cut < 8:
                _, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                cut += bool(left) and await asyncio.to_thread(server.drop_connections) > 0
            assert cut > 1
            results = dict(zip(jobs, await asyncio.gather(*jobs.values(), return_exceptions=True), strict=True))
            # One that was cut twice says so; nothing hangs, and nothing is half there.
            assert all(isinstance(result, Transfer | SFTPConnectionLost) for result in results.values())
            check(folders, [name for name, result in results.items() if isinstance(result, Transfer)])
            assert await settled(pool)
            again = [name for name, result in results.items() if not isinstance(result, Transfer)]
            await asyncio.gather(*(pool.get(files[name], folders.local / name) for name in again))
    check(folders, files)


async def test_an_idle_connection_that_is_cut_is_replaced(folders: Folders, tmp_path: Path) -> None:
    path = folders.make("a", b"x")
    with running_sftp_server(tmp_path / "server") as own:
        async with pool_of(own) as pool:
            await pool.get(path, folders.local / "a")
            await asyncio.to_thread(own.drop_connections)
            await pool.get(path, folders.local / "b")
            await asyncio.to_thread(own.drop_connections)
            assert (await pool.stat(path)).is_file
            await asyncio.to_thread(own.drop_connections)
            assert [entry.name async for entry in pool.list(folders.remote)] == ["a"]
            assert own.logins == 4
    assert folders.left() == ["a", "b"]


async def test_a_file_is_tried_twice_and_no_more(folders: Folders, tmp_path: Path) -> None:
    opened = 0

    def bend(request: Request, answer: bytes) -> bytes:
        nonlocal opened
        opened += request.kind == OPEN
        if request.kind == READ:
            server.loop.call_soon(server.connections[-1].abort)
            return b""
        return answer

    with running_sftp_server(tmp_path / "server", raw=Scripted({b"/a": b"x"}, bend=bend)) as server:
        async with pool_of(server) as pool:
            with pytest.raises(SFTPConnectionLost, match=f"127.0.0.1:{server.port}"):
                await pool.get("/a", folders.local / "a")
            assert pool._connections.in_flight == 0
    assert opened == 2
    assert folders.left() == []


async def test_a_broken_session_is_replaced_on_next_use(folders: Folders, tmp_path: Path) -> None:
    broken = True

    def bend(request: Request, answer: bytes) -> bytes:
        return wire.status(9999, 0) if broken else answer

    with running_sftp_server(tmp_path / "server", raw=Scripted({b"/a": b"x"}, bend=bend)) as server:
        async with pool_of(server) as pool:
            with pytest.raises(SFTPError):
                await pool.get("/a", folders.local / "a")
            broken = False
            await pool.get("/a", folders.local / "a")
    assert folders.left() == ["a"]


# -- the pool of the process -----------------------------------------------------------------------------------------


async def test_the_process_wide_pool(server: Server, folders: Folders) -> None:
    login = {
        "port": server.port,
        "username": server.username,
        "client_keys": server.client_key,
        "known_hosts": server.known_hosts,
    }
    path = folders.make("a", b"x")

    async def task(number: int) -> SFTPPool:
        pool = await sftp.pool(server.host, **login)
        await pool.get(path, folders.local / str(number))
        return pool

    pools = await asyncio.gather(*(task(number) for number in range(50)))
    assert len({id(pool) for pool in pools}) == 1
    assert len(folders.left()) == 50
    await lifetimes().close()
    with pytest.raises(SFTPError, match="closed"):
        await pools[0].stat("/")


async def test_the_process_wide_pool_is_found_by_what_the_options_say_now(
    _asyncssh_server: SFTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = _asyncssh_server
    keys = {"port": server.port, "username": server.username, "known_hosts": server.known_hosts}
    keys["client_keys"] = [server.client_key]
    assert await sftp.pool(server.host, **keys) is await sftp.pool(server.host, **keys)
    word = {"port": server.port, "username": server.username, "known_hosts": None, "password_env": "SFTP_WORD"}
    monkeypatch.setenv("SFTP_WORD", "hunter2")
    with pytest.raises(SFTPAuthError):
        await (await sftp.pool(server.host, **word)).stat("/")
    monkeypatch.setenv("SFTP_WORD", server.password)
    assert (await (await sftp.pool(server.host, **word)).stat("/")).is_dir
    await lifetimes().close()
