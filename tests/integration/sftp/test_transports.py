"""The two ways to speak SSH: keys pinned, hosts on the way, compression; and the program ``ssh`` from start to end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncssh
import psutil
import pytest

from asyncworker.errors import SettingsError, SFTPAuthError, SFTPConnectError, SFTPConnectionLost, SFTPHostKeyError
from asyncworker.sftp import SFTPPool
from asyncworker.sftp.askpass import askpass_environment
from asyncworker.sftp.options import Options
from tests.integration.sftp.conftest import Folders, behind, configured, in_mid_run, pool_of
from tests.integration.sftp.test_connections import check, make_files
from tests.integration.sftp.test_get import settled
from tests.servers.counter import running_counter
from tests.servers.ports import free_port
from tests.servers.processes import children_named, has_ended
from tests.servers.proxy import running_proxy
from tests.servers.sftp import SFTPServer
from tests.servers.sshd import Sshd

WAYS = ["asyncssh", "openssh"]
EVERY_WAY = pytest.mark.parametrize("transport", WAYS)


def pool_through(transport: str, server: Sshd, **options: Any) -> SFTPPool:
    """A pool that takes nothing from the machine's own configuration."""
    if transport == "openssh":
        options.setdefault("ssh_config", "/dev/null")
    return pool_of(server, transport=transport, **options)


def ssh_processes() -> list[psutil.Process]:
    """Those of ours."""
    return children_named("ssh")


@EVERY_WAY
async def test_a_pinned_key_is_all_that_counts(sshd: Sshd, tmp_path: Path, transport: str) -> None:
    known = sshd.known_hosts.read_text().partition(" ")[2].strip()
    (tmp_path / "none").touch()
    async with pool_through(transport, sshd, host_key=known, known_hosts=tmp_path / "none") as pool:
        assert (await pool.stat("/")).is_dir
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    async with pool_through(transport, sshd, host_key=other) as pool:
        with pytest.raises(SFTPHostKeyError, match=f"127.0.0.1:{sshd.port}"):
            await pool.stat("/")


async def test_a_pinned_fingerprint(sshd: Sshd) -> None:
    key = asyncssh.import_public_key(sshd.known_hosts.read_text().partition(" ")[2])
    async with pool_of(sshd, host_key=key.get_fingerprint(), known_hosts="/none") as pool:
        assert (await pool.stat("/")).is_dir
    async with pool_of(sshd, host_key="SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA") as pool:
        with pytest.raises(SFTPHostKeyError, match=re.escape(key.get_fingerprint())):
            await pool.stat("/")


@EVERY_WAY
async def test_hosts_on_the_way(sshd: Sshd, folders: Folders, transport: str) -> None:
    """Twice over itself: each hop checks its key and takes the login's."""
    hop = f"{sshd.username}@127.0.0.1:{sshd.port}"
    files = make_files(folders, 20)
    async with pool_through(transport, sshd, jump=f"{hop},{hop}", connections=1) as pool:
        await asyncio.gather(*(pool.get(path, folders.local / name) for name, path in files.items()))
    check(folders, files)


@EVERY_WAY
async def test_a_hop_that_is_not_known_gets_no_login(sshd: Sshd, tmp_path: Path, transport: str) -> None:
    (tmp_path / "none").touch()
    hop = f"{sshd.username}@127.0.0.1:{sshd.port}"
    pinned = sshd.known_hosts.read_text().partition(" ")[2].strip()
    async with pool_through(transport, sshd, jump=hop, host_key=pinned, known_hosts=tmp_path / "none") as pool:
        with pytest.raises(SFTPConnectError):
            await pool.stat("/")


async def test_a_jump_host_that_cannot_be_reached_is_named(sshd: Sshd) -> None:
    closed = f"127.0.0.1:{free_port()}"
    passed = f"{sshd.username}@127.0.0.1:{sshd.port}"
    for jump in (closed, f"{passed},{closed}"):
        async with pool_of(sshd, jump=jump) as pool:
            with pytest.raises(SFTPConnectError, match="jump host") as caught:
                await pool.stat("/")
        assert str(caught.value).startswith(f"127.0.0.1:{sshd.port}: ")
        assert closed in str(caught.value)


async def test_a_server_that_the_jump_host_cannot_reach_is_told_from_one_without_sftp(sshd: Sshd) -> None:
    closed = free_port()
    async with pool_of(sshd, port=closed, jump=f"{sshd.username}@127.0.0.1:{sshd.port}") as pool:
        with pytest.raises(SFTPConnectError) as caught:
            await pool.stat("/")
    assert f"127.0.0.1:{closed}: the jump host 127.0.0.1:{sshd.port} cannot connect to " in str(caught.value)
    assert "logged in" not in str(caught.value)


@EVERY_WAY
async def test_compression(sshd: Sshd, folders: Folders, transport: str) -> None:
    content = b"all the same " * 100_000
    path = folders.make("a", content)
    with running_counter(sshd.port) as counter:
        known = sshd.known_hosts.read_text().partition(" ")[2].strip()
        for compress in (False, True):
            counter.bytes = 0
            async with pool_through(transport, sshd, port=counter.port, host_key=known, compress=compress) as pool:
                await pool.get(path, folders.local / "a")
            assert (folders.local / "a").read_bytes() == content
            assert (counter.bytes < len(content) / 10) is compress


@EVERY_WAY
async def test_what_is_wrong_is_said(sshd: Sshd, tmp_path: Path, transport: str) -> None:
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(tmp_path / "key")
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "none").touch()
    where = f"127.0.0.1:{sshd.port}"
    async with pool_through(transport, sshd, client_keys=tmp_path / "key") as pool:
        with pytest.raises(SFTPAuthError, match=where):
            await pool.stat("/")
    async with pool_through(transport, sshd, known_hosts=tmp_path / "none") as pool:
        with pytest.raises(SFTPHostKeyError, match=where):
            await pool.stat("/")
    async with pool_through(transport, sshd, port=1) as pool:
        with pytest.raises(SFTPConnectError, match=r"127\.0\.0\.1:1: "):
            await pool.stat("/")


@EVERY_WAY
@configured("Subsystem other /bin/false")
async def test_a_login_without_sftp(own_sshd: Sshd, transport: str) -> None:
    async with pool_through(transport, own_sshd) as pool:
        with pytest.raises(SFTPConnectError):
            await pool.stat("/")


@EVERY_WAY
@configured("MaxSessions 1")
async def test_sessions_killed_in_mid_run(own_sshd: Sshd, folders: Folders, transport: str) -> None:
    files = make_files(folders, 300) | {"large": folders.make("large", os.urandom(40_000_000))}
    with running_proxy(own_sshd.port) as proxy:
        async with pool_through(transport, own_sshd, **behind(proxy, own_sshd)) as pool:
            jobs = [asyncio.create_task(pool.get(path, folders.local / name)) for name, path in files.items()]
            await in_mid_run(jobs[-1], lambda: any(job.done() for job in jobs))
            proxy.partition()
            assert not jobs[-1].done()
            assert await asyncio.to_thread(own_sshd.kill_sessions) > 0
            proxy.heal()
            results = await asyncio.gather(*jobs, return_exceptions=True)
            assert await settled(pool)
    lost = [name for name, result in zip(files, results, strict=True) if isinstance(result, SFTPConnectionLost)]
    check(folders, files.keys() - set(lost))


@EVERY_WAY
async def test_a_line_that_falls_silent_is_given_up(sshd: Sshd, folders: Folders, transport: str) -> None:
    path = folders.make("a", os.urandom(3_000_000))
    known = sshd.known_hosts.read_text().partition(" ")[2].strip()
    with running_proxy(sshd.port) as proxy:
        async with pool_through(
            transport, sshd, port=proxy.port, host_key=known, keepalive_s=1, connect_timeout_s=10, connections=1
        ) as pool:
            await pool.stat("/")
            proxy.partition()
            with pytest.raises((SFTPConnectionLost, SFTPConnectError)):
                async with asyncio.timeout(120):
                    await pool.get(path, folders.local / "a")
            proxy.heal()
            await pool.get(path, folders.local / "a")
    assert folders.left() == ["a"]


# -- the program ssh ---------------------------------------------------------------------------------------------------


async def test_a_process_a_connection_and_none_afterwards(sshd: Sshd, folders: Folders) -> None:
    files = make_files(folders, 200)
    async with pool_through("openssh", sshd, connections=3) as pool:
        await asyncio.gather(*(pool.get(path, folders.local / name) for name, path in files.items()))
        assert 1 <= len(ssh_processes()) <= 3
    check(folders, files)
    assert ssh_processes() == []


async def test_a_process_that_is_killed_is_replaced(sshd: Sshd, folders: Folders) -> None:
    path = folders.make("a", b"x")
    async with pool_through("openssh", sshd) as pool:
        await pool.get(path, folders.local / "a")
        (process,) = ssh_processes()
        process.kill()
        await pool.get(path, folders.local / "b")
        assert process not in ssh_processes()
    assert folders.left() == ["a", "b"]


async def test_cancelled_while_it_connects(sshd: Sshd) -> None:
    for delay in (0, 0.01, 0.05):
        async with pool_through("openssh", sshd) as pool:
            job = asyncio.create_task(pool.stat("/"))
            await asyncio.sleep(delay)
            job.cancel()
            await asyncio.wait([job])
    await wait_for_none()


async def wait_for_none() -> None:
    async with asyncio.timeout(120):
        while ssh_processes():
            await asyncio.sleep(0.01)


OWNER = """
import asyncio, sys
from asyncworker.sftp import SFTPPool
from asyncworker.sftp.askpass import askpass_environment
from asyncworker.sftp.options import Options

async def main():
    host, port, user, key, known_hosts = sys.argv[1:]
    async with SFTPPool(host, port=int(port), username=user, client_keys=key, known_hosts=known_hosts,
                        transport="openssh", ssh_config="/dev/null") as pool:
        await pool.stat("/")
        print("ready", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_it_dies_with_its_owner(sshd: Sshd) -> None:
    login = (sshd.host, str(sshd.port), sshd.username, str(sshd.client_key), str(sshd.known_hosts))
    owner = await asyncio.create_subprocess_exec(sys.executable, "-c", OWNER, *login, stdout=asyncio.subprocess.PIPE)
    assert owner.stdout is not None
    async with asyncio.timeout(120):
        assert await owner.stdout.readline() == b"ready\n"
        children = psutil.Process(owner.pid).children(recursive=True)
        assert [child.name() for child in children] == ["ssh"]
        owner.send_signal(signal.SIGKILL)
        await owner.wait()
        while not all(map(has_ended, children)):
            await asyncio.sleep(0.01)


async def test_without_the_program(sshd: Sshd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    async with pool_through("openssh", sshd) as pool:
        with pytest.raises(SFTPConnectError, match="not on PATH"):
            await pool.stat("/")


# -- secrets for the program ssh ---------------------------------------------------------------------------------------


async def secret_words(pool: SFTPPool, secret: str) -> list[str]:
    """Whatever of a running ssh's command line has the secret in it."""
    await pool.stat("/")
    processes = ssh_processes()
    assert processes
    return [word for process in processes for word in process.cmdline() if secret in word]


async def test_a_password_for_ssh(_asyncssh_server: SFTPServer, caplog: pytest.LogCaptureFixture) -> None:
    server = _asyncssh_server
    login = {"transport": "openssh", "ssh_config": "/dev/null", "client_keys": None}
    with caplog.at_level("DEBUG"):
        async with pool_of(server, password=server.password, **login) as pool:
            assert await secret_words(pool, server.password) == []
        async with pool_of(server, password="hunter2", **login) as pool:
            with pytest.raises(SFTPAuthError, match=server.username) as caught:
                await pool.stat("/")
    assert "hunter2" not in str(caught.value)
    assert server.password not in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.filterwarnings("ignore:.*bcrypt")  # few rounds are enough here, and quick
@pytest.mark.parametrize("password", [None, "not needed"])
async def test_a_passphrase_for_ssh(sshd: Sshd, tmp_path: Path, password: str | None) -> None:
    key = asyncssh.read_private_key(sshd.client_key)
    await asyncio.to_thread(key.write_private_key, tmp_path / "key", passphrase="open sesame", rounds=16)
    (tmp_path / "key").chmod(0o600)
    login = {"client_keys": tmp_path / "key", "password": password}
    async with pool_through("openssh", sshd, passphrase="open sesame", **login) as pool:
        assert await secret_words(pool, "sesame") == []
    async with pool_through("openssh", sshd, passphrase="close sesame", **login) as pool:
        with pytest.raises(SFTPAuthError) as caught:
            await pool.stat("/")
    assert "sesame" not in str(caught.value)


async def test_ssh_is_told_no_secret_that_it_did_not_ask_for(tmp_path: Path) -> None:
    options = Options.of("host", transport="openssh", password="pass", passphrase="phrase")
    environment = askpass_environment(options, {"PATH": os.environ["PATH"]})
    assert environment is not None

    def ask(question: str, **more: str) -> str:
        command = [environment["SSH_ASKPASS"], question]
        return subprocess.run(command, env=environment | more, capture_output=True, text=True).stdout

    def all_questions() -> None:
        assert ask("Enter passphrase for key '/k': ") == "phrase\n"
        assert ask("u@host's password: ") == "pass\n"
        assert ask("(u@host) Enter passphrase for key '/k': ") == "pass\n"  # that is the server's
        assert ask("Are you sure?", SSH_ASKPASS_PROMPT="confirm") == ""
        assert ask("Enter passphrase for key '/k': ", ASYNCWORKER_SSH_PASSPHRASE="") == ""

    await asyncio.to_thread(all_questions)
    assert askpass_environment(Options.of("host", transport="openssh"), {"A": "b"}) is None


@pytest.mark.parametrize("name", ["password", "passphrase"])
async def test_secrets_of_one_line_only(name: str) -> None:
    for secret in ("two\nlines", "nul\0"):
        with pytest.raises(SettingsError, match=name) as caught:
            SFTPPool("host", transport="openssh", **{name: secret})
        assert secret not in str(caught.value)
