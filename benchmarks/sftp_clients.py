"""Ways to fetch many files over SFTP from one program, each as its users write it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from asyncworker.sftp import SFTPPool, download
from tests.servers.sshd import Sshd

__all__ = ["Job", "fetch_with_asyncssh", "fetch_with_paramiko", "fetch_with_download", "fetch_with_pool"]


@dataclass(frozen=True)
class Job:
    """Files to fetch.

    Attributes:
        server: From where.
        remote: The folder there.
        names: The files in it.
        local: An empty folder.
    """

    server: Sshd
    remote: Path
    names: tuple[str, ...]
    local: Path


def fetch_with_paramiko(job: Job) -> None:
    """One file after the other."""
    import paramiko

    client = paramiko.SSHClient()
    client.load_host_keys(str(job.server.known_hosts))
    client.connect(
        job.server.host,
        job.server.port,
        job.server.username,
        key_filename=str(job.server.client_key),
        look_for_keys=False,
        allow_agent=False,
    )
    with client, client.open_sftp() as sftp:
        for name in job.names:
            sftp.get(f"{job.remote}/{name}", f"{job.local}/{name}")


def fetch_with_asyncssh(job: Job) -> None:
    """``gather`` over ``sftp.get`` with a semaphore of 32, on one connection."""

    async def main() -> None:
        limit = asyncio.Semaphore(32)
        connecting = asyncssh.connect(
            job.server.host,
            job.server.port,
            username=job.server.username,
            client_keys=[str(job.server.client_key)],
            known_hosts=str(job.server.known_hosts),
            config=None,
        )
        async with connecting as connection, connection.start_sftp_client() as sftp:

            async def fetch(name: str) -> None:
                async with limit:
                    await sftp.get(f"{job.remote}/{name}", f"{job.local}/{name}")

            await asyncio.gather(*(fetch(name) for name in job.names))

    asyncio.run(main())


def fetch_with_download(job: Job) -> None:
    """``await sftp.download(...)``: lists the folder itself; only where all of it is asked for."""

    async def main() -> None:
        report = await download(
            job.server.host,
            job.remote,
            job.local,
            port=job.server.port,
            username=job.server.username,
            client_keys=job.server.client_key,
            known_hosts=job.server.known_hosts,
        )
        report.raise_for_errors()

    asyncio.run(main())


def fetch_with_pool(job: Job) -> None:
    """``gather`` over ``await pool.get(...)``, sizes not known."""

    async def main() -> None:
        async with SFTPPool(
            job.server.host,
            port=job.server.port,
            username=job.server.username,
            client_keys=job.server.client_key,
            known_hosts=job.server.known_hosts,
        ) as pool:
            await asyncio.gather(*(pool.get(f"{job.remote}/{name}", f"{job.local}/{name}") for name in job.names))

    asyncio.run(main())
