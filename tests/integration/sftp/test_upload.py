"""A whole folder goes up: what was asked for, whole, and what fails fails alone."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from asyncworker.errors import SFTPError
from asyncworker.sftp import BulkProgress, FileResult, SFTPPool, upload
from tests.integration.sftp.conftest import Folders, pool_of
from tests.integration.sftp.test_download import make_tree, some_files, tree
from tests.integration.sftp.test_get import settled
from tests.servers.sftp import SFTPServer
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer


async def test_everything_with_times_and_modes(any_server: Server, folders: Folders) -> None:
    files = some_files()
    make_tree(folders.local, files)
    (folders.local / "empty" / "deep").mkdir(parents=True)
    (folders.local / "0.txt").chmod(0o4751)
    goal = folders.remote / "new" / "there"
    steps: list[BulkProgress] = []
    async with pool_of(any_server) as pool:
        report = await upload(pool, folders.local, goal, on_progress=steps.append)
        assert await settled(pool)
    report.raise_for_errors()
    assert tree(goal) == files
    assert (goal / "empty" / "deep").is_dir()
    for name in files:
        assert (goal / name).stat().st_mtime == (folders.local / name).stat().st_mtime
    assert (goal / "0.txt").stat().st_mode & 0o7777 == 0o751
    assert (report.files_done, report.bytes_done) == (len(files), sum(map(len, files.values())))
    assert steps[-1].listed


@pytest.mark.promise("sftp-unchanged-files-stay")
async def test_a_second_run_moves_only_what_changed(server: Server, folders: Folders, sftp_pool: SFTPPool) -> None:
    files = some_files()
    make_tree(folders.local, files)
    await upload(sftp_pool, folders.local, folders.remote)
    again = await upload(sftp_pool, folders.local, folders.remote)
    assert (again.files_found, again.files_skipped) == (0, len(files))
    changed = {"0.txt": b"other", "y/1/3.xml": b"new"}
    make_tree(folders.local, changed)
    would: list[FileResult] = []
    trial = await upload(sftp_pool, folders.local, folders.remote, dry_run=True, on_file=would.append)
    assert (trial.files_found, trial.files_done) == (2, 0)
    assert {result.remote for result in would} == {str(folders.remote / name) for name in changed}
    assert tree(folders.remote) == files
    assert (await upload(sftp_pool, folders.local, folders.remote)).files_done == 2
    assert tree(folders.remote) == files | changed
    assert (await upload(sftp_pool, folders.local, folders.remote, skip="never")).files_done == len(files)


async def test_choices_and_single_files(sshd: Sshd, folders: Folders) -> None:
    files = {name: content[:100] for name, content in some_files().items()}
    make_tree(folders.local, files)
    async with pool_of(sshd) as pool:
        await upload(pool, folders.local, folders.remote / "a", include="*.xml", exclude="x")
        assert set(tree(folders.remote / "a")) == {name for name in files if name.startswith("y/") and ".xml" in name}
        await upload(pool, folders.local, folders.remote / "b", recursive=False)
        assert set(tree(folders.remote / "b")) == {name for name in files if "/" not in name}
        await upload(pool, folders.local / "3.txt", folders.remote / "b" / "renamed")
        await upload(pool, folders.local / "4.txt", folders.remote / "a")
        again = await upload(pool, folders.local / "4.txt", folders.remote / "a")
        assert again.files_skipped == 1
        with pytest.raises(FileNotFoundError):
            await upload(pool, folders.local / "nothing", folders.remote)
        with pytest.raises(SFTPError):
            await upload(pool, folders.local, "/proc/new")
    assert (folders.remote / "b" / "renamed").read_bytes() == files["3.txt"]
    assert (folders.remote / "a" / "4.txt").read_bytes() == files["4.txt"]


async def test_links_and_special_files_stay_out_unless_asked_for(sshd: Sshd, folders: Folders) -> None:
    make_tree(folders.local, {"file": b"x", "folder/file": b"y"})
    (folders.local / "link").symlink_to("file")
    (folders.local / "dangling").symlink_to("nothing")
    (folders.local / "up").symlink_to("..")
    os.mkfifo(folders.local / "pipe")
    async with pool_of(sshd) as pool:
        report = await upload(pool, folders.local, folders.remote)
        assert tree(folders.remote) == {"file": b"x", "folder/file": b"y"}
        assert report.files_skipped == 4
        await upload(pool, folders.local, folders.remote, links="follow")
    assert tree(folders.remote) == {"file": b"x", "folder/file": b"y", "link": b"x"}


async def test_what_fails_fails_alone(sshd: Sshd, folders: Folders) -> None:
    make_tree(folders.local, {"a": b"x", "folder/b": b"y", "c": b"z"})
    (folders.remote / "a").mkdir()
    (folders.remote / "folder").write_bytes(b"")
    async with pool_of(sshd) as pool:
        report = await upload(pool, folders.local, folders.remote)
    assert {Path(result.remote).name for result in report.errors} == {"a", "folder"}
    assert (folders.remote / "c").read_bytes() == b"z"


async def test_stopped_at_any_time_leaves_no_temporary_file(each_way: Server, folders: Folders) -> None:
    files = some_files()
    make_tree(folders.local, files)
    async with pool_of(each_way) as pool:
        for delay in (0, 0.005, 0.02, 0.05, 0.1, 0.2):
            job = asyncio.create_task(upload(pool, folders.local, folders.remote))
            await asyncio.sleep(delay)
            job.cancel()
            await asyncio.wait([job])
            assert await settled(pool)
            assert {name: files.get(name) for name in tree(folders.remote)} == tree(folders.remote)
        await upload(pool, folders.local, folders.remote)
    assert tree(folders.remote) == files


async def test_names_that_no_download_would_take_are_sent_once(
    sshd: Sshd, folders: Folders, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (b"back\\slash", b"new\nline", b"tab\t", b"\xff", b"\x1b[31m"):
        Path(os.fsdecode(os.fsencode(folders.local) + b"/" + name)).write_bytes(name)
    async with pool_of(sshd) as pool:
        assert (await upload(pool, folders.local, folders.remote)).files_done == 5
        again = await upload(pool, folders.local, folders.remote)
    assert (again.ok, again.files_done, again.files_skipped) == (True, 0, 5)
    assert "refused" not in caplog.text
    assert tree(folders.remote) == tree(folders.local)


async def test_one_file_into_a_folder_that_is_to_be_made(server: Server, folders: Folders, sftp_pool: SFTPPool) -> None:
    (folders.local / "a").write_bytes(b"a")
    for goal in ("new/", "new/", "deep/er/"):
        report = await upload(sftp_pool, folders.local / "a", f"{folders.remote}/{goal}")
        assert report.ok, report.errors
    assert tree(folders.remote) == {"new/a": b"a", "deep/er/a": b"a"}
    trial = await upload(sftp_pool, folders.local / "a", f"{folders.remote}/trial/", dry_run=True)
    assert trial.files_found == 1
    with pytest.raises(SFTPError, match="make the folder"):
        await upload(sftp_pool, folders.local / "a", f"{folders.remote}/new/a/")
    assert tree(folders.remote) == {"new/a": b"a", "deep/er/a": b"a"}
    assert not (folders.remote / "trial").exists()
