"""Uploads of one large file at the same time: each writes a part of its own, and every one that ends well is whole."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from asyncworker.sftp import upload
from asyncworker.sftp.part_claims import PartClaim
from asyncworker.sftp.temporary_names import claimed_part_name
from tests.integration.sftp.conftest import Folders, behind, in_mid_run, pool_of
from tests.integration.sftp.test_download import MEGABYTE, make_tree, tree
from tests.integration.sftp.test_get import settled
from tests.integration.sftp.test_upload_large import LARGE, parts
from tests.servers.proxy import Proxy, running_proxy
from tests.servers.sftp import SFTPServer
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer

UPLOADER = """
import asyncio, json, sys
from asyncworker.sftp import SFTPPool, upload

async def main():
    options, local, remote = json.loads(sys.argv[1])
    async with SFTPPool(**options) as pool:
        (await upload(pool, local, remote)).raise_for_errors()

asyncio.run(main())
"""


@pytest.fixture
def content(folders: Folders) -> bytes:
    made = random.Random(1).randbytes(LARGE)
    make_tree(folders.local, {"large": made})
    return made


@contextlib.asynccontextmanager
async def uploading_elsewhere(
    server: Sshd, proxy: Proxy, folders: Folders
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that uploads the same file, by way of the proxy."""
    options: dict[str, Any] = {
        "host": server.host,
        "username": server.username,
        "client_keys": str(server.client_key),
        "connections": 2,
        **behind(proxy, server),
    }
    arguments = json.dumps([options, str(folders.local), str(folders.remote)])
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", UPLOADER, arguments)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until_grown(folders: Folders, size: int, known: set[Path] = frozenset()) -> Path:  # type: ignore[assignment]
    """Wait for a part that is longer than that, and is none of those."""
    async with asyncio.timeout(120):
        while True:
            for path in parts(folders):
                with contextlib.suppress(FileNotFoundError):
                    if path not in known and path.stat().st_size > size:
                        return path
            await asyncio.sleep(0.005)


@pytest.mark.promise("sftp-uploads-may-overlap")
async def test_one_that_is_stopped_takes_nothing_from_the_other(
    any_server: Server, folders: Folders, content: bytes
) -> None:
    with running_proxy(any_server.port) as proxy:
        async with pool_of(any_server, **behind(proxy, any_server)) as pool, pool_of(any_server) as other:
            first = asyncio.create_task(upload(pool, folders.local, folders.remote))
            mine = await until_grown(folders, LARGE // 2)
            proxy.partition()
            second = asyncio.create_task(upload(other, folders.local, folders.remote))
            theirs = await until_grown(folders, LARGE // 4, {mine})
            second.cancel()
            await asyncio.wait([second])
            assert not first.done()
            proxy.heal()
            (await first).raise_for_errors()
            assert await settled(pool)
    assert tree(folders.remote) == {"large": content, theirs.name: theirs.read_bytes()}
    async with pool_of(any_server) as pool:  # what the second one has left is not there for ever
        (await upload(pool, folders.local, folders.remote, skip="never")).raise_for_errors()
    assert tree(folders.remote) == {"large": content}


@pytest.mark.promise("sftp-uploads-may-overlap")
async def test_both_end_well(any_server: Server, folders: Folders, content: bytes) -> None:
    async with pool_of(any_server) as pool, pool_of(any_server) as other:
        reports = await asyncio.gather(*(upload(each, folders.local, folders.remote) for each in (pool, other)))
        for report in reports:
            report.raise_for_errors()
        assert await settled(pool)
        assert await settled(other)
    assert tree(folders.remote) == {"large": content}


async def test_what_a_killed_process_has_left_is_used_at_once(sshd: Sshd, folders: Folders, content: bytes) -> None:
    with running_proxy(sshd.port) as proxy:
        async with uploading_elsewhere(sshd, proxy, folders) as process:
            part = await until_grown(folders, LARGE * 2 // 3)
            proxy.partition()
            process.kill()
    length = part.stat().st_size
    with running_proxy(sshd.port) as proxy:
        async with pool_of(sshd, **behind(proxy, sshd)) as pool:
            (await upload(pool, folders.local, folders.remote)).raise_for_errors()
        assert proxy.to_server < LARGE - length + 34 * MEGABYTE
    assert tree(folders.remote) == {"large": content}


async def test_one_that_stalls_loses_its_part_and_not_the_file(sshd: Sshd, folders: Folders, content: bytes) -> None:
    """In another process, and silent for a while: its part is taken over, and it starts afresh."""
    with running_proxy(sshd.port) as proxy:
        async with uploading_elsewhere(sshd, proxy, folders) as process:
            await until_grown(folders, LARGE * 2 // 3)
            proxy.partition()
            async with pool_of(sshd) as pool:
                (await upload(pool, folders.local, folders.remote)).raise_for_errors()
            assert tree(folders.remote) == {"large": content}
            proxy.heal()
            async with asyncio.timeout(120):
                assert await process.wait() == 0
    assert tree(folders.remote) == {"large": content}


async def test_one_of_many_gets_what_was_left(sshd: Sshd, folders: Folders) -> None:
    """Whoever renames it first has it; the others have none."""
    folder = str(folders.remote).encode()
    arguments = (b"large", b"/from", LARGE, 7)
    (folders.remote / claimed_part_name(*arguments).decode()).write_bytes(b"what is there")
    there = [path.name for path in folders.remote.iterdir()]
    async with pool_of(sshd) as pool:
        claims = [PartClaim(pool, folder + b"/" + claimed_part_name(*arguments), there) for _ in range(8)]
        lengths = await asyncio.gather(*(claim.take_over() for claim in claims))
    assert sorted(lengths, key=bool) == [None] * 7 + [13]
    (claim,) = [claim for claim, length in zip(claims, lengths, strict=True) if length]
    assert [path.name for path in folders.remote.iterdir()] == [claim.path.rpartition(b"/")[2].decode()]


async def test_a_part_that_differs_anywhere_is_not_used(sshd: Sshd, folders: Folders, content: bytes) -> None:
    with running_proxy(sshd.port) as proxy:
        async with pool_of(sshd, **behind(proxy, sshd)) as pool:
            job = asyncio.create_task(upload(pool, folders.local, folders.remote))
            part = await until_grown(folders, LARGE * 2 // 3)
            await in_mid_run(job, lambda: True)
            proxy.partition()
            job.cancel()
            await asyncio.wait([job])
    with part.open("r+b") as file:
        file.seek(part.stat().st_size - 34 * MEGABYTE - 12_345)
        file.write(b"\0" * 100)
    async with pool_of(sshd) as pool:
        (await upload(pool, folders.local, folders.remote)).raise_for_errors()
    assert tree(folders.remote) == {"large": content}
