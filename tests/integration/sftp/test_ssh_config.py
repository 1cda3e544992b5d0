"""Aliases, hosts on the way and host keys from an SSH configuration, by both transports."""

from __future__ import annotations

import asyncio
import getpass
import hashlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from asyncworker.errors import SFTPConnectError, SFTPError, SFTPFileNotFound, SFTPHostKeyError
from asyncworker.sftp import SFTPPool
from asyncworker.sftp.options import Options
from asyncworker.sftp.ssh_target import timed
from tests.servers.sshd import Sshd, running_sshd

WAYS = pytest.mark.parametrize("transport", ["asyncssh", "openssh"])


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[tuple[Sshd, Sshd]]:
    """Two servers to be led through."""
    with running_sshd(tmp_path / "gate") as gate, running_sshd(tmp_path / "outer") as outer:
        yield gate, outer


def written(at: Path, text: str, **values: object) -> Path:
    """A configuration file."""
    path = at / "config"
    path.write_text(text.format(**values))
    path.chmod(0o600)
    return path


def login(sshd: Sshd) -> str:
    """Lines that lead to a server."""
    return f"""
  HostName {sshd.host}
  Port {sshd.port}
  User {sshd.username}
  IdentityFile {sshd.client_key}
  IdentitiesOnly yes
  UserKnownHostsFile {sshd.known_hosts}
"""


async def is_reached(host: str, config: Path, transport: str, **options: Any) -> None:
    async with SFTPPool(host, ssh_config=config, transport=transport, **options) as pool, asyncio.timeout(120):
        assert (await pool.stat("/")).is_dir


@WAYS
@pytest.mark.parametrize("host", ["files", "sftp://files"])
async def test_an_alias_has_host_port_user_key_and_known_hosts(
    sshd: Sshd, tmp_path: Path, transport: str, host: str
) -> None:
    config = written(tmp_path, "Host files\n{login}\nHost *\n  Port 1\n", login=login(sshd))
    await is_reached(host, config, transport)


@WAYS
async def test_an_error_names_no_port_that_is_not_the_one(sshd: Sshd, tmp_path: Path, transport: str) -> None:
    config = written(tmp_path, "Host files\n{login}", login=login(sshd))
    async with SFTPPool("files", ssh_config=config, transport=transport) as pool:
        with pytest.raises(SFTPFileNotFound, match=r"^files: cannot stat /nowhere") as caught:
            await pool.stat("/nowhere")
        assert caught.value.host == "files"
    async with SFTPPool(f"sftp://files:{sshd.port}", ssh_config=config, transport=transport) as pool:
        with pytest.raises(SFTPFileNotFound, match=f"^files:{sshd.port}: cannot stat /nowhere"):
            await pool.stat("/nowhere")


@WAYS
async def test_what_is_given_wins_over_the_configuration(sshd: Sshd, tmp_path: Path, transport: str) -> None:
    config = written(tmp_path, "Host files\n  HostName {host}\n  Port 1\n  User nobody-of-that-name\n", host=sshd.host)
    given = {"username": sshd.username, "client_keys": sshd.client_key, "known_hosts": sshd.known_hosts}
    await is_reached("files", config, transport, port=sshd.port, **given)
    await is_reached(f"sftp://{sshd.username}@files:{sshd.port}", config, transport, **{**given, "username": None})


@WAYS
async def test_files_that_are_included_patterns_and_quotes(sshd: Sshd, tmp_path: Path, transport: str) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.conf").write_text(f"Host !file9 file?\n{login(sshd)}")
    text = '# nothing\n\nInclude "{folder}/conf.d/*.conf"\nMatch originalhost file1 user {user}\n  Port=7\n'
    config = written(tmp_path, text, folder=tmp_path, user=sshd.username)
    await is_reached("file1", config, transport)
    with pytest.raises(SFTPConnectError):
        await is_reached("file9", config, transport)


@WAYS
async def test_a_folder_that_meets_a_pattern_of_include_is_passed_over(
    sshd: Sshd, tmp_path: Path, transport: str
) -> None:
    (tmp_path / "conf.d" / "old").mkdir(parents=True)
    (tmp_path / "conf.d" / "new").write_text(f"Host files\n{login(sshd)}")
    await is_reached("files", written(tmp_path, "Include {folder}/conf.d/*\n", folder=tmp_path), transport)


@WAYS
@pytest.mark.parametrize("alias", ["", "  HostKeyAlias another\n"], ids=["", "alias"])
async def test_tokens_in_the_name_of_a_key(sshd: Sshd, tmp_path: Path, transport: str, alias: str) -> None:
    """Both transports take the same file, so that the tokens stand for what ssh has for them."""
    user, host = getpass.getuser(), socket.gethostname()
    digest = hashlib.sha1(f"{host}{sshd.host}{sshd.port}{sshd.username}".encode()).hexdigest()
    name = f"another {os.getuid()} " if alias else f"files {os.getuid()} "
    key = tmp_path / f"{name}{digest}-files-{sshd.host}-{sshd.port}-{sshd.username}-{user}-{host}-%"
    key.write_bytes(sshd.client_key.read_bytes())
    key.chmod(0o600)
    known = tmp_path / "known"
    known.write_text(
        f"{'another' if alias else f'[{sshd.host}]:{sshd.port}'} {sshd.known_hosts.read_text().split(None, 1)[1]}"
    )
    lines = login(sshd).replace(str(sshd.known_hosts), str(known))
    lines = lines.replace(str(sshd.client_key), f'"{tmp_path}/%k %i %C-%n-%h-%p-%r-%u-%l-%%"')
    await is_reached("files", written(tmp_path, "Host files\n{lines}{alias}", lines=lines, alias=alias), transport)


@WAYS
@pytest.mark.parametrize("hops", [1, 2])
async def test_hosts_on_the_way(
    sshd: Sshd, gates: tuple[Sshd, Sshd], tmp_path: Path, transport: str, hops: int
) -> None:
    """Each with a port, a key and known hosts of its own."""
    gate, outer = gates
    text = "Host files\n{files}  ProxyJump gate\nHost gate\n{gate}{more}Host outer\n{outer}"
    more = "  ProxyJump outer\n" if hops == 2 else ""
    config = written(tmp_path, text, files=login(sshd), gate=login(gate), outer=login(outer), more=more)
    await is_reached("files", config, transport)
    assert "Accepted publickey" in await asyncio.to_thread(gate.log)
    assert ("Accepted publickey" in await asyncio.to_thread(outer.log)) == (hops == 2)


@WAYS
async def test_a_command_that_leads_there(sshd: Sshd, tmp_path: Path, transport: str) -> None:
    relay = tmp_path / "relay.py"
    relay.write_text(
        "import os, socket, sys, threading\n"
        "there = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "open(sys.argv[3], 'w').close()\n"
        "def up():\n"
        "    while data := os.read(0, 65536): there.sendall(data)\n"
        "    there.shutdown(socket.SHUT_WR)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while data := there.recv(65536): os.write(1, data)\n"
    )
    text = "Host files\n{login}  ProxyCommand {python} {relay} %h %p {used}\n"
    config = written(
        tmp_path, text, login=login(sshd), python=sys.executable, relay=relay, used=tmp_path / "used by %n"[:-3]
    )
    await is_reached("files", config, transport)
    assert (tmp_path / "used").exists() or (tmp_path / "used by").exists()


async def test_a_command_that_ends_at_once_is_one_error(
    sshd: Sshd, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = written(tmp_path, "Host files\n{login}  ProxyCommand false\n", login=login(sshd))
    async with SFTPPool("files", ssh_config=config) as pool:
        with pytest.raises(SFTPConnectError, match="the ProxyCommand false, or"):
            await pool.stat("/")
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


async def test_a_command_that_leads_nowhere_is_named(sshd: Sshd, tmp_path: Path) -> None:
    config = written(tmp_path, "Host files\n{login}  ProxyCommand /no/such/program %h %p\n", login=login(sshd))
    async with SFTPPool("files", ssh_config=config) as pool:
        with pytest.raises(SFTPConnectError, match="the ProxyCommand /no/such/program, or"):
            await pool.stat("/")


@WAYS
@pytest.mark.promise("sftp-wrong-known-key-is-refused")
async def test_new_keys_are_accepted_once_and_kept(sshd: Sshd, tmp_path: Path, transport: str) -> None:
    known = tmp_path / "ssh" / "known_hosts"
    given = {"port": sshd.port, "username": sshd.username, "client_keys": sshd.client_key, "known_hosts": known}
    if transport == "openssh":
        given["ssh_config"] = "/dev/null"
        known.parent.mkdir()
    async with SFTPPool(sshd.host, transport=transport, **given) as pool:
        with pytest.raises(SFTPHostKeyError, match="accept"):
            await pool.stat("/")
    async with SFTPPool(sshd.host, transport=transport, accept_new=True, **given) as pool:
        assert (await pool.stat("/")).is_dir
    assert sshd.known_hosts.read_text().split()[2] in known.read_text()
    assert transport == "openssh" or known.stat().st_mode & 0o077 == 0  # ssh makes the file itself
    async with SFTPPool(sshd.host, transport=transport, **given) as pool:  # it is known now
        assert (await pool.stat("/")).is_dir
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    known.write_text(f"[{sshd.host}]:{sshd.port} {other}")
    async with SFTPPool(sshd.host, transport=transport, accept_new=True, **given) as pool:
        with pytest.raises(SFTPHostKeyError):  # another key than the known one is never taken
            await pool.stat("/")
    assert known.read_text() == f"[{sshd.host}]:{sshd.port} {other}"


@WAYS
@pytest.mark.parametrize("word", ["accept-new", "no", "yes", "ask"])
async def test_what_the_configuration_says_of_new_keys(sshd: Sshd, tmp_path: Path, transport: str, word: str) -> None:
    text = "Host files\n  StrictHostKeyChecking {word}\n  UserKnownHostsFile {known}\n{login}"
    config = written(tmp_path, text, word=word, known=tmp_path / "known", login=login(sshd))
    if word in ("accept-new", "no"):
        await is_reached("files", config, transport)
        assert (tmp_path / "known").read_text()
    else:
        with pytest.raises(SFTPHostKeyError):
            await is_reached("files", config, transport)


async def test_what_asyncssh_cannot_do_is_refused_or_named(
    sshd: Sshd, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for line in ("KnownHostsCommand /bin/echo", "RevokedHostKeys /x", "CanonicalizeHostname yes", "BindInterface lo"):
        config = written(tmp_path, "Host files\n  {line}\n{login}", line=line, login=login(sshd))
        with pytest.raises(SFTPError, match=f"config, line 2: {line.split()[0].lower()}"):
            await is_reached("files", config, "asyncssh")
    config = written(tmp_path, "Match exec true\n  Port 1\nHost files\n{login}", login=login(sshd))
    with pytest.raises(SFTPError, match="Match exec"):
        await is_reached("files", config, "asyncssh")
    text = "IgnoreUnknown Fancy*\nHost files\n  FancyThing 1\n  VerifyHostKeyDNS yes\n  SendEnv LANG\n{login}"
    config = written(tmp_path, text, login=login(sshd))
    with caplog.at_level(logging.WARNING):
        await is_reached("files", config, "asyncssh")
    assert [record for record in caplog.messages if "verifyhostkeydns has no effect" in record]
    assert not [record for record in caplog.messages if "sendenv" in record or "fancy" in record]


@pytest.mark.parametrize(
    "text", ['Host "files', "Host files\n  Port x", "Include\n", "Host files\n  ConnectTimeout soon"]
)
async def test_a_configuration_that_cannot_be_understood_names_file_and_line(tmp_path: Path, text: str) -> None:
    config = written(tmp_path, text)
    with pytest.raises(SFTPError, match=r"config, line \d"):
        await is_reached("files", config, "asyncssh")


async def test_policies_of_whole_systems_are_understood(sshd: Sshd, tmp_path: Path) -> None:
    """As Fedora has them: lists with algorithms that asyncssh does not know, in a block that is met last."""
    text = """Match final all
  GSSAPIAuthentication yes
  Ciphers aes256-gcm@openssh.com,of-tomorrow@example.com,aes256-ctr
  MACs hmac-sha2-256-etm@openssh.com,umac-of-tomorrow
  KexAlgorithms of-tomorrow-sha512,curve25519-sha256
  PubkeyAcceptedAlgorithms +of-tomorrow
  RequiredRSASize 2048
  Port 1
Host files
{login}"""
    config = written(tmp_path, text, login=login(sshd))
    await is_reached("files", config, "asyncssh")
    config = written(tmp_path, "Host files\n  Ciphers of-tomorrow\n{login}", login=login(sshd))
    with pytest.raises(SFTPError, match="ciphers"):
        await is_reached("files", config, "asyncssh")


async def test_a_circle_of_hosts_on_the_way_is_refused(tmp_path: Path) -> None:
    config = written(tmp_path, "Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n")
    with pytest.raises(SFTPError, match="circle"):
        await is_reached("a", config, "asyncssh")


@WAYS
async def test_times_of_the_configuration_count_where_none_are_given(tmp_path: Path, transport: str) -> None:
    config = written(tmp_path, "Host a\n  ConnectTimeout 7\n  ServerAliveInterval 1m\n")
    options = await asyncio.to_thread(timed, Options.of("a", ssh_config=config, transport=transport))  # type: ignore[arg-type]
    assert (options.connect_timeout_s, options.keepalive_s) == (7.0, 60.0)
    given = Options.of("a", ssh_config=config, transport=transport, connect_timeout_s=3)  # type: ignore[arg-type]
    options = await asyncio.to_thread(timed, given)
    assert options.connect_timeout_s == 3


async def test_the_library_reads_no_configuration_unless_it_is_named(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    written(tmp_path / ".ssh", "Host files\n{login}", login=login(sshd))
    async with SFTPPool("files", connect_timeout_s=5) as pool:
        with pytest.raises(SFTPConnectError):
            await pool.stat("/")
    await is_reached("files", Path("~/.ssh/config"), "asyncssh")


def test_the_command_line_reads_the_users_configuration(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    written(tmp_path / ".ssh", "Host files\n{login}", login=login(sshd))
    command = [sys.executable, "-m", "asyncworker", "sftp", "ls", "sftp://files/"]
    environment = os.environ | {"HOME": str(tmp_path)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "etc" in ran.stdout
    ran = subprocess.run(
        [*command, "--ssh-config", "none"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode != 0
