"""Ways to fetch a folder over SFTP from one Python program, each as its users write it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncssh

from asyncworker import sftp
from asyncworker.sftp import SFTPPool
from benchmarks.sftp_job import Job

__all__ = [
    "asyncssh_get",
    "asyncssh_read",
    "download",
    "download_openssh",
    "paramiko_get",
    "pool_get",
    "pool_get_many",
    "pool_get_openssh",
]


def paramiko_get(job: Job) -> None:
    """One file after the other."""
    import paramiko

    client = paramiko.SSHClient()
    client.load_host_keys(job.login.known_hosts)
    client.connect(
        job.login.host,
        job.login.port,
        job.login.username,
        key_filename=job.login.client_key,
        look_for_keys=False,
        allow_agent=False,
    )
    with client, client.open_sftp() as sftp:
        for name in sftp.listdir(job.remote):
            sftp.get(f"{job.remote}/{name}", f"{job.local}/{name}")


@asynccontextmanager
async def _asyncssh(job: Job) -> AsyncIterator[asyncssh.SFTPClient]:
    connecting = asyncssh.connect(
        job.login.host,
        job.login.port,
        username=job.login.username,
        client_keys=[job.login.client_key],
        known_hosts=job.login.known_hosts,
        config=None,
        encryption_algs=["aes128-gcm@openssh.com"],
    )
    async with connecting as connection, connection.start_sftp_client() as sftp:
        yield sftp


async def _names(sftp: asyncssh.SFTPClient, job: Job) -> list[str]:
    return [str(name) for name in await sftp.listdir(job.remote) if name not in (".", "..")]


def asyncssh_get(job: Job) -> None:
    """``gather`` over ``sftp.get`` with a semaphore, on one connection."""

    async def main() -> None:
        limit = asyncio.Semaphore(64 if job.distant else 32)
        async with _asyncssh(job) as sftp:

            async def fetch(name: str) -> None:
                async with limit:
                    await sftp.get(f"{job.remote}/{name}", f"{job.local}/{name}")

            await asyncio.gather(*(fetch(name) for name in await _names(sftp, job)))

    asyncio.run(main())


def asyncssh_read(job: Job) -> None:
    """``gather`` over open, read and close with a semaphore of 128, on one connection: the leanest of its calls."""

    async def main() -> None:
        limit = asyncio.Semaphore(128)
        async with _asyncssh(job) as sftp:

            async def fetch(name: str) -> None:
                async with limit, sftp.open(f"{job.remote}/{name}", "rb") as file:
                    write(f"{job.local}/{name}", await file.read())

            await asyncio.gather(*(fetch(name) for name in await _names(sftp, job)))

    asyncio.run(main())


def write(path: str, data: bytes) -> None:
    """Write a file, as a user would who has it in memory."""
    with open(path, "wb") as file:  # noqa: PTH123  (cheaper than Path, and this is a competitor)
        file.write(data)


def _pool(job: Job) -> SFTPPool:
    options: dict[str, Any] = {"transport": job.transport} if job.transport else {}
    return SFTPPool(
        job.login.host,
        port=job.login.port,
        username=job.login.username,
        client_keys=job.login.client_key,
        known_hosts=job.login.known_hosts,
        **options,
    )


def download(job: Job) -> None:
    """The engine for whole folders, sizes known from the listing."""

    async def main() -> None:
        async with _pool(job) as pool:
            report = await sftp.download(pool, job.remote, job.local)
        report.raise_for_errors()

    asyncio.run(main())


def pool_get(job: Job) -> None:
    """``gather`` over ``await pool.get(...)``, sizes not known."""

    async def main() -> None:
        async with _pool(job) as pool:
            names = [entry.name async for entry in pool.list(job.remote)]
            await asyncio.gather(*(pool.get(f"{job.remote}/{name}", f"{job.local}/{name}") for name in names))

    asyncio.run(main())


def download_openssh(job: Job) -> None:
    """The same over the ``ssh`` program."""
    download(replace(job, transport="openssh"))


def pool_get_openssh(job: Job) -> None:
    """The same over the ``ssh`` program."""
    pool_get(replace(job, transport="openssh"))


def pool_get_many(job: Job) -> None:
    """``pool.get_many`` over the listing while that is read."""

    async def main() -> None:
        async with _pool(job) as pool:

            async def pairs() -> AsyncIterator[tuple[str, str]]:
                async for entry in pool.list(job.remote):
                    yield entry.path, f"{job.local}/{entry.name}"

            async for result in pool.get_many(pairs()):
                if result.error is not None:
                    raise result.error

    asyncio.run(main())
