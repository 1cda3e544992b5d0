"""A limit of bytes a second over all connections of a pool."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from asyncworker.cli import main
from asyncworker.errors import SettingsError
from asyncworker.sftp import SFTPPool, download, upload
from tests.integration.sftp.conftest import Folders, pool_of
from tests.servers.sftp import SFTPServer
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer

RATE = 4 * 1024 * 1024
#: What may leave at once at the beginning.
BURST_S = 0.3


def fill(folder: Path, size: int) -> None:
    (folder / "large").write_bytes(b"l" * (size - 200_000))
    for number in range(200):
        (folder / f"{number}").write_bytes(b"s" * 1000)


@pytest.mark.parametrize("direction", ["download", "upload"])
async def test_a_transfer_takes_as_long_as_the_rate_wants(each_way: Server, folders: Folders, direction: str) -> None:
    size = 2 * RATE
    source, goal = (folders.remote, folders.local) if direction == "download" else (folders.local, folders.remote)
    fill(source, size)
    async with pool_of(each_way, max_bytes_per_s=RATE) as pool:
        begin = time.monotonic()
        if direction == "download":
            report = await download(pool, folders.remote, folders.local)
        else:
            report = await upload(pool, folders.local, folders.remote)
        assert time.monotonic() - begin >= size / RATE - BURST_S
    assert (report.ok, report.files_done) == (True, 201), report.errors
    assert (goal / "large").read_bytes() == (source / "large").read_bytes()


async def test_files_whose_size_is_not_known_cost_what_they_bring(sshd: Sshd, folders: Folders) -> None:
    fill(folders.remote, 200_001)
    rate = 256 * 1024
    async with pool_of(sshd, max_bytes_per_s=rate) as pool:
        begin = time.monotonic()
        pairs = [(folders.remote / f"{number}", folders.local / f"{number}") for number in range(200)]
        assert all([result.ok async for result in pool.get_many(pairs)])
        took = time.monotonic() - begin
        assert took >= 200_000 / rate - BURST_S
        bandwidth = pool._connections._traffic.bandwidth
        assert bandwidth is not None
        assert bandwidth.room() > 0  # all that was asked for and did not come was given back


async def test_a_rate_that_is_smaller_than_any_block(sshd: Sshd, folders: Folders) -> None:
    path = folders.make("a", b"x" * 20_000)
    async with pool_of(sshd, max_bytes_per_s=20_000, timeout_s=2) as pool:
        begin = time.monotonic()
        await pool.get(path, folders.local / "a")
        await pool.put(folders.local / "a", folders.remote / "b")
        assert time.monotonic() - begin >= 1
    assert (folders.remote / "b").read_bytes() == b"x" * 20_000


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(SettingsError, match="max_bytes_per_s"):
        SFTPPool("host", max_bytes_per_s=rate)


def test_bwlimit_in_the_shell(sshd: Sshd, folders: Folders) -> None:
    fill(folders.remote, 1024 * 1024)
    login = ["-i", str(sshd.client_key), "--known-hosts", str(sshd.known_hosts)]
    url = f"sftp://{sshd.username}@127.0.0.1:{sshd.port}{folders.remote}"
    for rate, begins_with in (("1M", 1.0), ("1024", 1.0), ("1mib", 1.0)):
        begin = time.monotonic()
        goal = folders.local / rate
        done = CliRunner().invoke(main, ["sftp", "get", url, str(goal), "--bwlimit", rate, *login])
        assert done.exit_code == 0, done.output
        assert time.monotonic() - begin >= begins_with - BURST_S
    for wrong in ("fast", "-1", "0", "1.2.3", "0B"):
        assert CliRunner().invoke(main, ["sftp", "get", url, "--bwlimit", wrong, *login]).exit_code == 2
