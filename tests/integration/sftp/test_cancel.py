"""A call may be cancelled at any time: nothing stays here, no place is lost, no handle is left open there."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from typing import Any

import asyncssh
import pytest

from asyncworker.sftp import Transfer
from asyncworker.sftp.host_keys import Client
from tests.integration.sftp.conftest import Folders, pool_of
from tests.integration.sftp.test_get import settled
from tests.servers.sftp import SFTPServer, running_sftp_server
from tests.servers.sftp_scripted import OPEN, READ, Request, Scripted
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer


@pytest.mark.parametrize("seed", range(4))
async def test_gets_cancelled_at_random(server: Server, folders: Folders, seed: int) -> None:
    chance = random.Random(seed)
    paths = {str(n): folders.make(str(n), os.urandom(chance.choice((0, 500, 40_000, 600_000)))) for n in range(150)}
    paths["large"] = folders.make("large", os.urandom(6_000_000))
    async with pool_of(server, connections=2) as pool:
        jobs = {name: asyncio.create_task(pool.get(path, folders.local / name)) for name, path in paths.items()}
        victims = chance.sample(sorted(jobs), 120)
        for number, name in enumerate(victims):
            jobs[name].cancel()
            if number % 4 == 0:
                for _ in range(chance.randrange(30)):
                    await asyncio.sleep(0)
        results = dict(zip(jobs, await asyncio.gather(*jobs.values(), return_exceptions=True), strict=True))
        done = {name for name, result in results.items() if isinstance(result, Transfer)}
        assert done >= paths.keys() - set(victims)
        assert all(isinstance(result, Transfer | asyncio.CancelledError) for result in results.values())
        assert await settled(pool)
        assert set(folders.left()) == done
        for name in done:
            assert (folders.local / name).read_bytes() == (folders.remote / name).read_bytes()
        # All places are there for the next ones.
        await asyncio.gather(*(pool.get(path, folders.local / name) for name, path in paths.items()))
    assert set(folders.left()) == set(paths)


@pytest.mark.parametrize("step", ["connecting", OPEN, READ])
@pytest.mark.promise("sftp-cancelled-transfers-leave-nothing")
async def test_cancelled_at_each_step(folders: Folders, step: int | str) -> None:
    """The server holds back its answers at one step, until the calls are cancelled."""
    files = {f"/{n}".encode(): b"x" * 3000 for n in range(20)}
    held: list[bytes] = []
    holding = True

    def bend(request: Request, answer: bytes) -> bytes:
        if holding and request.kind == step:
            held.append(answer)
            return b""
        if held and not holding:
            answer = b"".join(held) + answer
            held.clear()
        return answer

    script = Scripted(files, bend=bend)
    with running_sftp_server(folders.local.parent / "server", raw=script) as server:
        async with pool_of(server) as pool:
            jobs = [asyncio.create_task(pool.get(p.decode(), folders.local / p.decode()[1:])) for p in files]
            async with asyncio.timeout(120):
                while step != "connecting" and len(held) < len(files):
                    await asyncio.sleep(0.001)
            for job in jobs:
                job.cancel()
            results = await asyncio.gather(*jobs, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results)
            assert folders.left() == []
            holding = False
            await pool.get("/1", folders.local / "1")  # brings the late answers, which nobody waits for
            assert await settled(pool)
            assert script.open_handles == []
    assert folders.left() == ["1"]


async def test_cancelled_while_a_large_file_is_written(each_way: Server, folders: Folders) -> None:
    path = folders.make("large", os.urandom(8_000_000))
    async with pool_of(each_way) as pool:
        for turns in range(0, 200, 10):
            job = asyncio.create_task(pool.get(path, folders.local / "large"))
            for _ in range(turns):
                await asyncio.sleep(0)
            job.cancel()
            await asyncio.wait([job])
            assert folders.left() in ([], ["large"])
        assert await settled(pool)
        await pool.get(path, folders.local / "large")
    assert (folders.local / "large").read_bytes() == (folders.remote / "large").read_bytes()


async def test_a_thousand_cancelled_gets_leak_nothing(each_way: Server, folders: Folders) -> None:
    path = folders.make("a", b"x" * 5000)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH112, PTH208
    async with pool_of(each_way) as pool:
        jobs = [asyncio.create_task(pool.get(path, folders.local / str(number))) for number in range(1000)]
        await asyncio.sleep(0.02)
        for job in jobs:
            job.cancel()
        results = await asyncio.gather(*jobs, return_exceptions=True)
        assert await settled(pool)
        assert pool._connections.waiting == 0
    assert len(folders.left()) == sum(isinstance(result, Transfer) for result in results)
    if before:
        # Both ends of the asyncssh server's connections are in this process; it may still be closing its own.
        assert len(os.listdir("/proc/self/fd")) <= before + 10  # noqa: PTH208


async def test_a_connection_that_is_given_up_as_it_is_ready_is_closed(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def keep_accepted(_client: Client) -> None:
        loop.call_soon_threadsafe(ready.set)
        go_on.wait(120)

    monkeypatch.setattr(Client, "keep_accepted", keep_accepted)
    opened: list[asyncssh.SSHClientConnection] = []
    connect = asyncssh.connect

    async def noted(*args: Any, **options: Any) -> asyncssh.SSHClientConnection:
        opened.append(await connect(*args, **options))
        return opened[-1]

    monkeypatch.setattr(asyncssh, "connect", noted)
    pool = pool_of(sshd)
    call = asyncio.create_task(pool.stat("/"))
    await asyncio.wait_for(ready.wait(), 120)
    call.cancel()
    closing = asyncio.create_task(pool.close())
    await asyncio.wait([closing], timeout=0.05)
    go_on.set()
    await closing
    assert len(opened) == 1
    async with asyncio.timeout(120):
        await opened[0].wait_closed()
