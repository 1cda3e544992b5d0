"""The async task of the SFTP benchmark: ``ASYNCWORKER_INCLUDE=benchmarks.sftp_tasks celery -A asyncworker worker``."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from functools import cache
from typing import Any

from asyncworker import app, sftp

__all__ = ["LOGINS_VARIABLE", "fetch", "list_names"]

#: JSON: for each server's name the host and the options of the pool.
LOGINS_VARIABLE = "BENCHMARK_SFTP_LOGINS"


@app.task(name="benchmarks.sftp.list")
async def list_names(server: str, remote: str) -> AsyncIterator[str]:
    """List a folder."""
    async for entry in (await sftp.pool(**_logins()[server])).list(remote):
        yield entry.name


@app.task(name="benchmarks.sftp.fetch")
async def fetch(server: str, remote: str, local: str, name: str) -> None:
    """Fetch one file."""
    pool = await sftp.pool(**_logins()[server])
    await pool.get(f"{remote}/{name}", f"{local}/{name}")


@cache
def _logins() -> dict[str, dict[str, Any]]:
    logins: dict[str, dict[str, Any]] = json.loads(os.environ[LOGINS_VARIABLE])
    return logins
