"""The async task of the SFTP benchmark: ``ASYNCWORKER_INCLUDE=benchmarks.sftp_tasks celery -A asyncworker worker``."""

from __future__ import annotations

import json
import os
from functools import cache

from asyncworker import app, sftp

__all__ = ["SERVER_VARIABLE", "fetch"]

#: JSON: host, and the options of the pool.
SERVER_VARIABLE = "BENCHMARK_SFTP_SERVER"


@app.task(name="benchmarks.sftp.fetch")
async def fetch(remote: str, local: str, name: str) -> None:
    """Fetch one file."""
    pool = await sftp.pool(**_login())
    await pool.get(f"{remote}/{name}", f"{local}/{name}")


@cache
def _login() -> dict[str, object]:
    login: dict[str, object] = json.loads(os.environ[SERVER_VARIABLE])
    return login
