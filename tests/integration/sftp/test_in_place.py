"""Files that are written under their own names: for drop boxes, and for readers that take every name that appears."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from asyncworker.cli import main
from asyncworker.errors import SFTPError, SFTPFileChanged, SFTPFileNotFound, SFTPPermissionDenied
from asyncworker.sftp import upload
from tests.integration.sftp.conftest import Folders, in_mid_run, pool_of, pool_on
from tests.servers.sftp import SFTPServer, TidyFiles, running_sftp_server
from tests.servers.sftp_hostile import FAILURE, Hostile
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer

CONTENT = random.Random(1).randbytes(20 * 1024 * 1024 + 1)


def local_file(folders: Folders, name: str, content: bytes) -> Path:
    path = folders.local / name
    path.write_bytes(content)
    path.chmod(0o640)
    return path


class DropBox(TidyFiles):
    """Allows files to be made and written, and nothing else; keeps the names that were opened."""

    names: set[bytes]

    def open(self, path: bytes, pflags: int, attrs: Any) -> Any:
        self.names.add(path.rpartition(b"/")[2])
        return super().open(path, pflags, attrs)

    def rename(self, oldpath: bytes, newpath: bytes) -> Any:
        raise PermissionError(13, "Permission denied")

    posix_rename = rename

    def scandir(self, path: bytes) -> Any:
        raise PermissionError(13, "Permission denied")


@contextmanager
def drop_box(folder: Path, *more: type) -> Iterator[tuple[SFTPServer, set[bytes]]]:
    names: set[bytes] = set()
    factory: Any = type("Box", (*more, DropBox), {"names": names})
    with running_sftp_server(folder, sftp_factory=factory) as server:
        yield server, names


async def test_no_other_name_is_ever_seen_and_nothing_is_renamed(folders: Folders, tmp_path: Path) -> None:
    small, large = local_file(folders, "small", b"x" * 5), local_file(folders, "large", CONTENT)
    Path(folders.make("old", b"longer than the new one"))
    local_file(folders, "old", b"new")
    with drop_box(tmp_path / "box") as (server, names):
        async with pool_of(server) as pool:
            with pytest.raises(SFTPPermissionDenied):
                await pool.put(small, folders.remote / "small")
            names.clear()
            sent = await pool.put(small, folders.remote / "small", inplace=True)
            assert (sent.size_bytes, sent.local, sent.mtime) == (5, str(small), int(small.stat().st_mtime))
            report = await upload(pool, folders.local, folders.remote, inplace=True)
        assert report.ok, report.errors
        assert report.files_done == 3
    assert names == {b"small", b"large", b"old"}
    assert (folders.remote / "large").read_bytes() == CONTENT
    assert (folders.remote / "old").read_bytes() == b"new"
    assert (folders.remote / "small").stat().st_mode & 0o777 == 0o640
    assert (folders.remote / "large").stat().st_mtime == int(large.stat().st_mtime)


async def test_many_files_in_place(any_server: Server, folders: Folders) -> None:
    for number in range(300):
        local_file(folders, f"{number}", bytes([number % 256]) * number)
    async with pool_of(any_server) as pool:
        report = await upload(pool, folders.local, folders.remote, inplace=True)
        assert (report.ok, report.files_done) == (True, 300)
        again = await upload(pool, folders.local, folders.remote, inplace=True)
        assert (again.files_done, again.files_skipped) == (0, 300)
    assert all((folders.remote / f"{n}").read_bytes() == bytes([n % 256]) * n for n in range(300))


class Full(TidyFiles):
    """A disk that takes the first megabyte of each file."""

    def write(self, file_obj: Any, offset: int, data: bytes) -> Any:
        if offset >= 1024 * 1024:
            raise OSError(28, "No space left on device")
        return super().write(file_obj, offset, data)


@pytest.mark.parametrize("existed", [False, True])
@pytest.mark.promise("sftp-inplace-failure-is-cleaned-or-named")
async def test_a_part_is_removed_only_if_there_was_no_file(folders: Folders, tmp_path: Path, existed: bool) -> None:
    large, goal = local_file(folders, "large", CONTENT), folders.remote / "large"
    if existed:
        goal.write_bytes(b"old")
    with drop_box(tmp_path / "box", Full) as (server, _):
        async with pool_of(server) as pool:
            with pytest.raises(SFTPError, match="large") as caught:
                await pool.put(large, goal, inplace=True)
            assert (f"{goal} may hold a part of the new file" in str(caught.value)) is existed
            assert goal.exists() is existed
            report = await upload(pool, folders.local, folders.remote, inplace=True, retries=0)
    assert report.files_failed == 1
    assert ("may hold a part" in str(report.errors[0].error)) is existed
    assert goal.exists() is existed


@pytest.mark.parametrize("existed", [False, True])
async def test_a_file_whose_connection_is_lost_is_sent_again(own_sshd: Sshd, folders: Folders, existed: bool) -> None:
    large, goal = local_file(folders, "large", CONTENT), folders.remote / "large"
    if existed:
        goal.write_bytes(b"x" * (len(CONTENT) + 100))

    def grows() -> bool:
        return goal.exists() and 0 < goal.stat().st_size < len(CONTENT)

    async with pool_of(own_sshd) as pool:
        job = asyncio.create_task(pool.put(large, goal, inplace=True))
        await in_mid_run(job, grows)
        own_sshd.kill_sessions()
        await job
    assert goal.read_bytes() == CONTENT


async def test_cancelled_in_mid_run_nothing_stays(server: Server, folders: Folders) -> None:
    large, goal = local_file(folders, "large", CONTENT), folders.remote / "large"
    async with pool_of(server) as pool:
        job = asyncio.create_task(pool.put(large, goal, inplace=True))
        await in_mid_run(job, goal.exists)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
    assert list(folders.remote.iterdir()) == []


async def test_what_cannot_be_sent_at_all_touches_nothing(server: Server, folders: Folders) -> None:
    old = Path(folders.make("old", b"old"))
    async with pool_of(server) as pool:
        with pytest.raises(FileNotFoundError, match="missing"):
            await pool.put(folders.local / "missing", old, inplace=True)
        with pytest.raises(SFTPFileNotFound):
            await pool.put(local_file(folders, "a", b"x"), folders.remote / "none" / "a", inplace=True)
    assert old.read_bytes() == b"old"


async def test_a_local_file_that_changes_is_caught(sshd: Sshd, folders: Folders) -> None:
    large, goal = local_file(folders, "large", CONTENT), folders.remote / "large"
    changed = threading.Event()

    def change() -> bool:
        if goal.exists() and not changed.is_set():
            changed.set()
            with large.open("ab") as file:
                file.write(b"more")
        return changed.is_set()

    async with pool_of(sshd) as pool:
        job = asyncio.create_task(pool.put(large, goal, inplace=True))
        await in_mid_run(job, change)
        with pytest.raises(SFTPFileChanged, match="large"):
            await job
    assert not goal.exists()


@pytest.mark.parametrize("fails", [False, True])
async def test_a_server_that_knows_no_exclusive_open_keeps_no_part_of_the_old_file(
    folders: Folders, tmp_path: Path, fails: bool
) -> None:
    hostile = Hostile(ignores_exclusive=True, refuse={"WRITE": FAILURE} if fails else {})
    hostile.tree.write("/goal", b"the old one is longer")
    async with pool_on(hostile, tmp_path / "server") as pool:
        if fails:
            with pytest.raises(SFTPError, match="/goal may hold a part of the new file"):
                await pool.put(local_file(folders, "new", b"new"), "/goal", inplace=True)
        else:
            await pool.put(local_file(folders, "new", b"new"), "/goal", inplace=True)
    assert hostile.tree.files() == {"/goal": b"" if fails else b"new"}


@pytest.mark.parametrize("theirs", [b"x", b"theirs", b"x" * 100])
@pytest.mark.parametrize("inplace", [False, True])
async def test_one_that_fails_removes_no_file_of_another(
    server: Server, folders: Folders, theirs: bytes, inplace: bool
) -> None:
    goal = folders.remote / "goal"
    done = asyncio.Event()

    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"m" * 1024 * 1024  # each waits for the one before it, with four of them in the air
        yield b"m"
        await done.wait()
        raise ValueError("the source has failed")

    async with pool_of(server) as pool, pool_of(server) as other:
        mine = asyncio.create_task(pool.put_stream(blocks(), goal, inplace=True))
        await in_mid_run(mine, lambda: goal.exists() and goal.stat().st_size > 5 * 1024 * 1024)
        await other.put(local_file(folders, "theirs", theirs), goal, inplace=inplace)
        done.set()
        with pytest.raises(ValueError, match="the source has failed") as caught:
            await mine
    assert goal.read_bytes() == theirs
    assert any("may hold a part" in note for note in caught.value.__notes__)


def test_in_place_from_the_shell(folders: Folders, tmp_path: Path) -> None:
    local_file(folders, "a", b"x")
    with drop_box(tmp_path / "box") as (server, names):
        login = ["-i", str(server.client_key), "--known-hosts", str(server.known_hosts)]
        url = f"sftp://{server.username}@127.0.0.1:{server.port}{folders.remote}"
        done = CliRunner().invoke(main, ["sftp", "put", f"{folders.local}/a", f"{url}/a", "--inplace", *login])
        assert done.exit_code == 0, done.output
    assert names == {b"a"}
    assert (folders.remote / "a").read_bytes() == b"x"
