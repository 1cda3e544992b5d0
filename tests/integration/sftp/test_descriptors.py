"""Thousands of files in a process that may have few of them open."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from asyncworker.sftp.open_files import OpenFiles
from tests.integration.sftp.conftest import Folders
from tests.servers.sshd import Sshd

MOVE = """
import asyncio, resource, sys
limit, way, host, port, user, key, known_hosts, transport, source, goal = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from pathlib import Path
from asyncworker import sftp

async def gathered(pool, call, pairs):
    await asyncio.gather(*(call(*pair) for pair in pairs))

async def many(call, pairs):
    async for result in call(pairs):
        if not result.ok:
            raise result.error

async def main():
    options = dict(port=int(port), username=user, client_keys=key, known_hosts=known_hosts, transport=transport)
    if transport == "openssh":
        options["ssh_config"] = "/dev/null"
    async with sftp.SFTPPool(host, connections=8, **options) as pool:
        if way == "download":
            (await sftp.download(pool, source, goal)).raise_for_errors()
        elif way == "upload":
            (await sftp.upload(pool, source, goal)).raise_for_errors()
        elif way == "inplace":
            (await sftp.upload(pool, source, goal, inplace=True)).raise_for_errors()
        elif way == "checksum":
            for path in Path(source).rglob("*"):
                at = Path(goal) / path.relative_to(source)
                at.mkdir(parents=True) if path.is_dir() else at.write_bytes(path.read_bytes())
            report = await sftp.download(pool, source, goal, skip="checksum")
            report.raise_for_errors()
            assert report.files_done == 0, report
        else:
            pairs = []
            for path in Path(source).rglob("*"):
                at = Path(goal) / path.relative_to(source)
                if path.is_dir():
                    at.mkdir(parents=True, exist_ok=True)
                else:
                    at.parent.mkdir(parents=True, exist_ok=True)
                    pairs.append((str(path), str(at)))
            if way in ("get", "put"):
                await gathered(pool, getattr(pool, way), pairs)
            else:
                await many(getattr(pool, way), pairs)

asyncio.run(main())
"""


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("way", "limit"),
    [
        *[("download", 256), ("upload", 256), ("get_many", 256), ("put_many", 256), ("get", 80), ("put", 80)],
        *[("inplace", 40), ("checksum", 40)],
    ],
)
@pytest.mark.promise("sftp-descriptors-are-enough")
async def test_few_descriptors_fail_nothing(sshd: Sshd, folders: Folders, way: str, limit: int) -> None:
    """Files that need more than one READ, or are read in more than one piece, in many folders."""
    transport = "openssh" if way in ("upload", "get") else "asyncssh"
    count, size = (600, 300_000) if way in ("download", "get_many", "get") else (1000, 70_000)
    if way in ("inplace", "checksum"):  # 64 and 32 at once
        count, size = 1500, 5000
    for number in range(count):
        folder = folders.remote / f"{number % 100}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}").write_bytes(bytes([number % 256]) * size)
    login = (sshd.host, str(sshd.port), sshd.username, str(sshd.client_key), str(sshd.known_hosts))
    arguments = (str(limit), way, *login, transport, str(folders.remote), str(folders.local))
    ran = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", MOVE, *arguments], capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert tree(folders.local) == tree(folders.remote)


async def test_the_line_for_descriptors_is_fair_and_nobody_stays_in_it() -> None:
    files = OpenFiles()
    assert files.take(1, lambda: None) is None
    files.limit = 3
    woken: list[str] = []
    assert files.take(2, lambda: None) is None
    first = files.take(2, lambda: woken.append("first"))
    second = files.take(1, lambda: woken.append("second"))
    third = files.take(1, lambda: woken.append("third"))
    assert first is not None
    assert second is not None
    assert third is not None
    files.give(1)
    await asyncio.sleep(0)
    assert woken == []  # the second would fit, but comes after the first
    assert files.leave(second)
    files.give(1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert woken == ["first"]
    assert not files.leave(first)
    files.give(2)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert woken == ["first", "third"]
    assert files.taken == 2
