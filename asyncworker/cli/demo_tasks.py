"""The demo's two tasks, as a user would write them: list a remote folder, fetch one file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path, PurePosixPath

from asyncworker import app, sftp
from asyncworker.cli.demo_folder import PAUSE_VARIABLE, DemoFolder
from asyncworker.cli.sftp_server import ServerAddress, read_address

__all__ = ["fetch", "list_files"]

#: Set by ``asyncworker demo --crash`` for the worker that it is going to kill: seconds to rest before each file.
_PAUSE_S = float(os.environ.get(PAUSE_VARIABLE, "0"))


@cache
def _address(folder: str) -> ServerAddress:
    # Not in the message: a continued run finds the server on another port.
    return read_address(DemoFolder(Path(folder)).server_file)


async def _pool(folder: str) -> sftp.SFTPPool:
    server = _address(folder)
    return await sftp.pool(
        server.host,
        port=server.port,
        username=server.username,
        known_hosts=server.known_hosts,
        client_keys=(server.client_key,),
    )


@app.task(name="asyncworker.demo.list_files")
async def list_files(folder: str) -> AsyncIterator[str]:
    """Yield the path of each file that the server has."""
    pool = await _pool(folder)
    async for entry in pool.list("/"):
        if entry.is_file:
            yield entry.path


@app.task(name="asyncworker.demo.fetch")
async def fetch(folder: str, path: str) -> int:
    """Fetch one file and return its size in bytes."""
    if _PAUSE_S:
        await asyncio.sleep(_PAUSE_S)
    pool = await _pool(folder)
    transfer = await pool.get(path, DemoFolder(Path(folder)).received / PurePosixPath(path).name)
    return transfer.size_bytes
