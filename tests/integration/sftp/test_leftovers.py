"""Files that are not whole: never taken for a user's, and removed once nobody writes them or goes on with them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncworker.sftp import SFTPPool, download, upload
from asyncworker.sftp.temporary_names import (
    Aside,
    Temporary,
    aside_name,
    claimed_part_name,
    is_ours,
    parse,
    part_name,
    temporary_name,
)
from tests.integration.sftp.conftest import Folders, in_mid_run, pool_of, pool_on
from tests.servers.sftp import SFTPServer
from tests.servers.sftp_hostile import PERMISSION_DENIED, Hostile, Request
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer

DAY_S = 24 * 3600


def names_of_an_ended_process(name: str) -> dict[str, str]:
    """A name of each kind, made by a process that runs no more."""
    code = (
        "import sys; from asyncworker.sftp import temporary_names as t; n = sys.argv[1].encode()\n"
        "print(t.temporary_name(n).decode(), t.claimed_part_name(n, b'', 5, 6).decode(), t.aside_name(n).decode())"
    )
    made = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=True).stdout
    return dict(zip(("temporary", "part", "aside"), made.split(), strict=True))


def names_of_another_machine(name: str, created_at: float) -> dict[str, str]:
    """A name of each kind, of a process of which nothing can be known here."""
    code = (
        "import sys, time; from asyncworker.sftp import temporary_names as t\n"
        "n = sys.argv[1].encode(); time.time = lambda: float(sys.argv[2])\n"
        "t._machine = lambda: 1; t._process.find_out()\n"
        "print(t.temporary_name(n).decode(), t.claimed_part_name(n, b'', 5, 6).decode(), t.aside_name(n).decode())"
    )
    command = [sys.executable, "-c", code, name, str(created_at)]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(zip(("temporary", "part", "aside"), made.split(), strict=True))


def write(path: Path, age_s: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not whole")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def fresh() -> Iterator[list[str]]:
    """Names of each kind whose process lives: this one."""
    yield [
        os.fsdecode(temporary_name(b"file")),
        os.fsdecode(part_name(b"file", b"", 9, 7)),
        os.fsdecode(claimed_part_name(b"file", b"", 9, 7)),
        os.fsdecode(aside_name(b"file")),
    ]


# -- left out ----------------------------------------------------------------------------------------------------------


@pytest.mark.promise("sftp-unfinished-files-are-left-out")
async def test_a_download_leaves_out_what_is_not_whole_and_counts_it(
    each_way: Server, folders: Folders, fresh: list[str]
) -> None:
    for folder in ("", "sub"):
        for name in (*fresh, "file", "foreign.part", ".hidden.part"):
            write(folders.remote / folder / name)
    async with pool_of(each_way) as pool:
        seen: list[str] = []
        report = await download(
            pool, str(folders.remote), folders.local, on_skipped=lambda result: seen.append(result.remote)
        )
        assert contents(folders.local) == {
            f"{folder}{name}" for folder in ("", "sub/") for name in ("file", "foreign.part", ".hidden.part")
        }
        assert (report.files_unfinished, report.files_done, report.ok) == (8, 6, True)
        assert sorted(seen) == sorted(str(folders.remote / folder / name) for folder in ("", "sub") for name in fresh)
        matched = await download(pool, f"{folders.remote}/.*", folders.local / "matched")
        assert contents(folders.local / "matched") == {".hidden.part"}
        assert matched.files_unfinished == 4
    assert {name for name in contents(folders.remote) if is_ours(Path(name).name)}  # a download cleans nothing there


@pytest.mark.promise("sftp-unfinished-files-are-left-out")
async def test_an_upload_leaves_out_what_is_not_whole_and_counts_it(
    each_way: Server, folders: Folders, fresh: list[str]
) -> None:
    for name in (*fresh, "file", "foreign.part"):
        write(folders.local / name)
    async with pool_of(each_way) as pool:
        report = await upload(pool, folders.local, str(folders.remote))
    assert contents(folders.remote) == {"file", "foreign.part"}
    assert (report.files_unfinished, report.files_done, report.ok) == (4, 2, True)


async def test_a_listing_shows_them_and_says_what_they_are(
    each_way: Server, folders: Folders, fresh: list[str]
) -> None:
    for name in (*fresh, "file", "foreign.part"):
        write(folders.remote / name)
    async with pool_of(each_way) as pool:
        listed = {entry.name: entry.is_unfinished async for entry in pool.list(str(folders.remote))}
        walked = {entry.name: entry.is_unfinished async for entry in pool.walk(str(folders.remote))}
    assert listed == walked == {name: name in fresh for name in (*fresh, "file", "foreign.part")}


# -- cleaned -----------------------------------------------------------------------------------------------------------


@pytest.mark.promise("sftp-leftovers-are-removed")
async def test_an_upload_removes_what_a_process_that_has_ended_left(each_way: Server, folders: Folders) -> None:
    left = names_of_an_ended_process("file")
    for folder in ("", "sub"):
        for name in (*left.values(), *names_of_an_ended_process("other").values(), "other"):
            write(folders.remote / folder / name)
        write(folders.local / folder / "file")
    async with pool_of(each_way) as pool:
        report = await upload(pool, folders.local, str(folders.remote))
    # What was moved aside has its own name again, or a newer file has it; a part is kept for the file that it becomes.
    assert contents(folders.remote) == {
        f"{folder}{name}" for folder in ("", "sub/") for name in ("file", "other", left["part"])
    }
    assert report.leftovers_removed == 10
    assert report.ok


@pytest.mark.parametrize("there", [False, True])
async def test_an_upload_of_one_file_cleans_its_folder_too(each_way: Server, folders: Folders, there: bool) -> None:
    left, lost = names_of_an_ended_process("file"), names_of_an_ended_process("lost")
    for name in (*left.values(), *lost.values()):
        write(folders.remote / name)
    file = write(folders.local / "file", age_s=60)
    if there:
        write(folders.remote / "file", age_s=60)
        os.utime(folders.remote / "file", (file.stat().st_mtime,) * 2)
    async with pool_of(each_way) as pool:
        report = await upload(pool, file, str(folders.remote))
    assert report.files_done == (not there)
    # The part of a file that is not there is kept.
    assert contents(folders.remote) == {"file", "lost", lost["part"]} | (set() if there else {left["part"]})


async def test_what_was_moved_aside_gets_its_name_back(each_way: Server, folders: Folders) -> None:
    (folders.remote / names_of_an_ended_process("precious")["aside"]).write_text("precious")
    write(folders.local / "file")
    async with pool_of(each_way) as pool:
        await upload(pool, folders.local, str(folders.remote))
    assert contents(folders.remote) == {"file", "precious"}
    assert (folders.remote / "precious").read_text() == "precious"


@pytest.mark.parametrize("length", [8, 100])
@pytest.mark.parametrize("is_sent", [False, True])
async def test_what_was_moved_aside_while_its_folder_was_listed_gets_its_name_back(
    folders: Folders, tmp_path: Path, length: int, is_sent: bool
) -> None:
    """The listing shows it under both names, and there is no file under its own any more."""
    name = "p" * length
    hostile = Hostile(without=("posix-rename",))
    hostile.tree.write(f"/in/{name}", b"precious")
    hostile.tree.write("/in/" + names_of_an_ended_process(name)["aside"], b"precious")

    def move(request: Request) -> int | None:
        if request.kind == "CLOSE" and request.path == b"/in" and hostile.tree.exists(f"/in/{name}"):
            del hostile.tree.folder(b"/in").entries[name.encode()]
        # What is sent in its place is refused.
        goes_in = request.kind == "RENAME" and request.second == f"/in/{name}".encode()
        is_old = isinstance(parse(Path(os.fsdecode(request.path)).name), Aside)
        return PERMISSION_DENIED if goes_in and not is_old else None

    hostile.refuse_if = move
    write(folders.local / (name if is_sent else "file"))
    async with pool_on(hostile, tmp_path / "server") as pool:
        await upload(pool, folders.local, "/in", skip="size")
    assert hostile.tree.read(f"/in/{name}") == b"precious"
    assert not any(is_ours(path.rpartition("/")[2]) for path in hostile.tree.paths())


@pytest.mark.promise("sftp-leftovers-are-removed")
async def test_a_download_removes_what_a_process_that_has_ended_left(each_way: Server, folders: Folders) -> None:
    write(folders.remote / "file")
    write(folders.remote / "sub" / "file")
    for folder in ("", "sub"):
        write(folders.local / folder / names_of_an_ended_process("file")["temporary"])
    async with pool_of(each_way) as pool:
        trial = await download(pool, str(folders.remote), folders.local, dry_run=True)
        assert trial.leftovers_removed == 0
        report = await download(pool, str(folders.remote), folders.local)
        assert report.leftovers_removed == 2
    assert contents(folders.local) == {"file", "sub/file"}


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_what_another_client_writes_at_this_moment_stays(
    each_way: Server, folders: Folders, direction: str, fresh: list[str]
) -> None:
    source, goal = (folders.local, folders.remote) if direction == "up" else (folders.remote, folders.local)
    now = time.time()
    young = names_of_another_machine("file", now)
    begun_long_ago = names_of_another_machine("file", now - 3 * DAY_S)
    touched_long_ago = names_of_another_machine("other", now)  # whose time was set just before it gets its own name
    for name in (*fresh, *young.values(), *begun_long_ago.values()):
        write(goal / name)
    write(goal / touched_long_ago["temporary"], age_s=900 * DAY_S)
    before = contents(goal)
    write(source / "another")
    async with pool_of(each_way) as pool:
        move = upload(pool, source, str(goal)) if direction == "up" else download(pool, str(source), goal)
        report = await move
    assert report.leftovers_removed == 0
    assert contents(goal) == before | {"another"}


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_what_is_old_and_does_not_change_is_removed_whoever_made_it(
    each_way: Server, folders: Folders, direction: str
) -> None:
    source, goal = (folders.local, folders.remote) if direction == "up" else (folders.remote, folders.local)
    old = names_of_another_machine("gone", time.time() - 30 * DAY_S)
    write(goal / old["temporary"], age_s=2 * DAY_S)
    write(goal / old["part"], age_s=2 * DAY_S)
    write(goal / names_of_another_machine("lost", 0)["part"], age_s=8 * DAY_S)
    write(source / "file")
    async with pool_of(each_way) as pool:
        move = upload(pool, source, str(goal)) if direction == "up" else download(pool, str(source), goal)
        assert (await move).leftovers_removed == 2
    assert contents(goal) == {"file", old["part"]}


async def test_what_grows_between_two_looks_stays(sshd: Sshd, folders: Folders) -> None:
    old = write(folders.remote / names_of_another_machine("gone", 0)["temporary"], age_s=2 * DAY_S)
    write(folders.local / "file")
    async with pool_of(sshd) as pool:
        job = asyncio.create_task(upload(pool, folders.local, str(folders.remote)))
        clock = temporary_name(b"clock").decode().split(".awt1")[0]
        await in_mid_run(job, lambda: (folders.remote / "file").exists())
        while any(path.name.startswith(clock) for path in folders.remote.iterdir()):
            await asyncio.sleep(0.01)
        with old.open("ab") as file:
            file.write(b"more")
        os.utime(old, (time.time() - 2 * DAY_S,) * 2)
        assert (await job).leftovers_removed == 0
    assert contents(folders.remote) == {"file", old.name}


async def test_a_part_of_what_the_file_was_before_is_removed_unless_it_is_written(sshd: Sshd, folders: Folders) -> None:
    write(folders.remote / "file")
    old = write(folders.local / os.fsdecode(part_name(b"file", b"", 1, 2)))
    locked = write(folders.local / os.fsdecode(part_name(b"file", b"", 3, 4)))
    with locked.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        async with pool_of(sshd) as pool:
            report = await download(pool, str(folders.remote), folders.local)
    assert report.leftovers_removed == 1
    assert not old.exists()
    assert contents(folders.local) == {"file", locked.name}


async def test_cleaning_follows_no_link(sshd: Sshd, folders: Folders, tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere" / names_of_an_ended_process("file")["temporary"])
    (folders.local / "sub").symlink_to(elsewhere.parent)
    write(folders.remote / "sub" / "file")
    async with pool_of(sshd) as pool:
        await download(pool, str(folders.remote), folders.local)
    assert elsewhere.exists()


async def test_two_uploads_at_once_leave_each_other_alone(each_way: Server, folders: Folders) -> None:
    for number in range(300):
        write(folders.local / str(number))

    async def run(pool: SFTPPool) -> None:
        report = await upload(pool, folders.local, str(folders.remote), skip="never")
        assert (report.ok, report.leftovers_removed) == (True, 0)

    async with pool_of(each_way) as one, pool_of(each_way) as other:
        await asyncio.gather(run(one), run(other))
    assert len(contents(folders.remote)) == 300


def test_a_name_of_another_machine_is_what_these_tests_take_it_for() -> None:
    made = parse(names_of_another_machine("file", 12345)["temporary"])
    mine = parse(temporary_name(b"file").decode())
    assert isinstance(made, Temporary) and isinstance(mine, Temporary)
    assert made.created == 12345
    assert made.machine != mine.machine
