"""Airflow's own pool of SFTP clients. Imports nothing of ours: it may run in an interpreter that has only Airflow."""

from __future__ import annotations

import asyncio
import json
import os

from benchmarks.sftp_job import Job

__all__ = ["pool_retrieve"]


def pool_retrieve(job: Job) -> None:
    """``SFTPClientPool``, each file by ``client.get`` under a client of the pool."""
    size = 64 if job.distant else 16
    extra = {"key_file": job.login.client_key, "known_hosts": job.login.known_hosts, "no_host_key_check": False}
    os.environ["AIRFLOW_CONN_BENCHMARK"] = json.dumps(
        {
            "conn_type": "sftp",
            "host": job.login.host,
            "port": job.login.port,
            "login": job.login.username,
            "extra": extra,
        }
    )
    from airflow.providers.sftp.pools.sftp import SFTPClientPool

    async def main() -> None:
        pool = SFTPClientPool("benchmark", pool_size=size)
        async with pool.get_sftp_client() as client:
            names = [name for name in await client.listdir(job.remote) if name not in (".", "..")]

        async def fetch(name: str) -> None:
            async with pool.get_sftp_client() as client:
                await client.get(f"{job.remote}/{name}", f"{job.local}/{name}")

        await asyncio.gather(*(fetch(name) for name in names))
        await pool.close()

    asyncio.run(main())
