"""What version 3 has no status for is said all the same: a name that is taken, a folder that is not empty."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from asyncworker import sftp
from asyncworker.errors import SFTPError
from asyncworker.sftp import SFTPPool
from tests.integration.sftp.conftest import Folders, pool_of
from tests.servers.sshd import Sshd

Call = Callable[[SFTPPool, Path, Path], Coroutine[Any, Any, Any]]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda pool, root, _: pool.mkdir(root / "folder"), "a folder of that name is there"),
        (lambda pool, root, _: pool.mkdir(root / "file", exist_ok=True), "a file of that name is there"),
        (lambda pool, root, _: pool.rename(root / "file", root / "link"), "a link of that name is there"),
        (lambda pool, root, _: pool.rename(root / "file", root / "folder", replace=True), "a folder of that name"),
        (lambda pool, root, _: pool.symlink("x", root / "file"), "a file of that name is there"),
        (lambda pool, root, _: pool.rmdir(root / "folder"), "it may not be empty"),
        (lambda pool, root, _: pool.remove(root / "folder"), "it is a folder"),
        (lambda pool, root, local: pool.put(local, root / "folder"), "a folder of that name is there"),
        (lambda pool, root, _: pool.put_stream([b"x"], root / "folder"), "a folder of that name is there"),
        (lambda pool, root, local: sftp.upload(pool, local.parent, root / "file"), "a file of that name is there"),
    ],
)
async def test_a_failure_has_its_reason(sshd: Sshd, folders: Folders, call: Call, said: str) -> None:
    root, local = folders.remote, folders.local / "a"
    local.write_bytes(b"a")
    (root / "folder").mkdir()
    (root / "folder" / "x").touch()
    (root / "file").touch()
    (root / "link").symlink_to("nowhere")
    before = sorted(root.rglob("*"))
    async with pool_of(sshd) as pool:
        with pytest.raises(SFTPError) as one:
            await call(pool, root, local)
    assert said in str(one.value)
    assert "failure (status 4" in str(one.value)
    assert sorted(root.rglob("*")) == before
