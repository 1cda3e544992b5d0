"""The async task of the SFTP benchmark: ``ASYNCWORKER_INCLUDE=benchmarks.sftp_tasks celery -A asyncworker worker``."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from functools import cache
from typing import Any

from asyncworker import app, sftp

__all__ = ["LOGINS_VARIABLE", "fetch", "fetch_listed", "list_files"]

#: JSON: for each server's name the host and the options of the pool.
LOGINS_VARIABLE = "BENCHMARK_SFTP_LOGINS"


@app.task(name="benchmarks.sftp.list")
async def list_files(server: str, remote: str) -> AsyncIterator[tuple[str, int | None, int | None]]:
    """List a folder: name, size and time of change of each file."""
    async for entry in (await sftp.pool(**_logins()[server])).list(remote):
        yield entry.name, entry.size_bytes, entry.mtime


@app.task(name="benchmarks.sftp.fetch")
async def fetch(server: str, remote: str, local: str, name: str) -> None:
    """Fetch one file."""
    pool = await sftp.pool(**_logins()[server])
    await pool.get(f"{remote}/{name}", f"{local}/{name}")


@app.task(name="benchmarks.sftp.fetch_listed")
async def fetch_listed(server: str, remote: str, local: str, file: tuple[str, int | None, int | None]) -> None:
    """Fetch one file of a listing."""
    name, size_bytes, mtime = file
    pool = await sftp.pool(**_logins()[server])
    await pool.get(f"{remote}/{name}", f"{local}/{name}", size_bytes=size_bytes, mtime=mtime)


@cache
def _logins() -> dict[str, dict[str, Any]]:
    logins: dict[str, dict[str, Any]] = json.loads(os.environ[LOGINS_VARIABLE])
    return logins
