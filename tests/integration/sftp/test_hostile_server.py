"""The scripted server itself, with all switches off: a whole SFTP server, in the eyes of two other clients."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from pathlib import Path

import asyncssh
import pytest

from asyncworker.sftp import download, upload
from tests.integration.sftp.conftest import Folders, ThroughSsh, pool_of
from tests.servers.sftp import SFTPServer
from tests.servers.sftp_hostile import Hostile, running_hostile_server

CONTENT = random.Random(1).randbytes(700_000)


def connect(server: SFTPServer) -> asyncssh.connect:
    return asyncssh.connect(
        server.host,
        server.port,
        username=server.username,
        client_keys=[str(server.client_key)],
        known_hosts=str(server.known_hosts),
        config=None,
    )


async def test_asyncssh_finds_a_whole_server(tmp_path: Path) -> None:
    hostile = Hostile()
    hostile.tree.write("/in/a", CONTENT, mode=0o640, mtime=1_600_000_000)
    hostile.tree.symlink("/in/link", "a")
    with running_hostile_server(tmp_path, hostile) as server:
        async with connect(server) as connection, connection.start_sftp_client() as sftp:
            assert sorted(await sftp.listdir("/in")) == ["a", "link"]
            stat = await sftp.stat("/in/link")
            assert (stat.size, stat.permissions, stat.mtime) == (len(CONTENT), 0o100640, 1_600_000_000)
            assert (await sftp.lstat("/in/link")).size == 1
            assert await sftp.readlink("/in/link") == "a"
            assert await sftp.realpath("in/../in/link") == "/in/a"
            await sftp.get("/in/a", tmp_path / "a")
            assert (tmp_path / "a").read_bytes() == CONTENT
            await sftp.mkdir("/out")
            async with sftp.open("/out/b", "wb") as file:
                await file.write(CONTENT)
                await file.fsync()
            await sftp.setstat("/out/b", asyncssh.SFTPAttrs(permissions=0o600, atime=5, mtime=6, size=100_000))
            assert hostile.tree.read("/out/b") == CONTENT[:100_000]
            assert (hostile.tree.node("/out/b").mode, hostile.tree.node("/out/b").mtime) == (0o100600, 6)
            await sftp.symlink("b", "/out/to-b")
            assert await sftp.readlink("/out/to-b") == "b"
            await sftp.link("/out/b", "/out/hard")
            with pytest.raises(asyncssh.SFTPFailure):
                await sftp.rename("/out/b", "/in/a")
            await sftp.posix_rename("/out/b", "/in/a")
            assert hostile.tree.read("/in/a") == CONTENT[:100_000] == hostile.tree.read("/out/hard")
            assert (await sftp.statvfs("/")).blocks == hostile.statvfs[2]
            await sftp.remote_copy("/in/a", "/in/copied")
            assert hostile.tree.read("/in/copied") == CONTENT[:100_000]
            with pytest.raises(asyncssh.SFTPFailure):
                await sftp.rmdir("/out")
            await sftp.rmtree("/out")
            assert hostile.tree.paths("/") == ["/in", "/in/a", "/in/copied", "/in/link"]
            with pytest.raises(asyncssh.SFTPNoSuchFile):
                await sftp.stat("/out")
    assert hostile.open_handles == []
    assert hostile.count("MKDIR") == 1


async def test_the_sftp_program_finds_a_whole_server(tmp_path: Path) -> None:
    hostile = Hostile()
    hostile.tree.write("/in/sub/a", CONTENT, mode=0o640, mtime=1_600_000_000)
    program = shutil.which("sftp")
    if program is None:
        pytest.skip("the program sftp is not installed (Debian: openssh-client)")
    batch = f"get -pr /in {tmp_path}/got\nput -fpr {tmp_path}/got /out\nchmod 600 /out/sub/a\n"
    with running_hostile_server(tmp_path, hostile) as server:
        options = [f"-oUserKnownHostsFile={server.known_hosts}", f"-oIdentityFile={server.client_key}"]
        options += [f"-oPort={server.port}", "-F", "/dev/null", "-b", "-", f"{server.username}@{server.host}"]
        process = await asyncio.create_subprocess_exec(
            program,
            *options,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(process.communicate(batch.encode()), 120)
    assert process.returncode == 0, said.decode()
    assert (tmp_path / "got/sub/a").read_bytes() == CONTENT
    assert hostile.tree.files("/out") == {"/out/sub/a": CONTENT}
    assert (hostile.tree.node("/out/sub/a").mode, hostile.tree.node("/out/sub/a").mtime) == (0o100600, 1_600_000_000)
    assert hostile.tree.paths("/out") == ["/out/sub", "/out/sub/a"]
    assert hostile.count("fsync") == 1
    assert hostile.open_handles == []


@pytest.mark.parametrize("transport", ["asyncssh", "openssh"])
async def test_both_transports_up_and_down(folders: Folders, transport: str) -> None:
    hostile = Hostile()
    files = {f"folder {n % 3}/\u00e4 {n}": random.Random(n).randbytes(n * 3000) for n in range(50)}
    for name, content in files.items():
        path = folders.local / "from" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with running_hostile_server(folders.remote / "server", hostile) as server:
        reached = ThroughSsh(server) if transport == "openssh" else server
        async with pool_of(reached) as pool:
            (await upload(pool, folders.local / "from", "/up")).raise_for_errors()
            (await download(pool, "/up", folders.local / "to")).raise_for_errors()
        assert hostile.open_handles == []
    assert hostile.tree.files() == {f"/up/{name}": content for name, content in files.items()}
    found = {os.fspath(path.relative_to(folders.local / "to")): path for path in (folders.local / "to").glob("*/*")}
    assert {name: path.read_bytes() for name, path in found.items()} == files
