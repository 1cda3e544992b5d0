"""A whole folder comes down: what was asked for, whole, and nothing outside of the destination."""

from __future__ import annotations

import asyncio
import os
import random
import stat
from pathlib import Path

import pytest

from asyncworker.errors import (
    ItemErrors,
    SettingsError,
    SFTPConnectError,
    SFTPFileChanged,
    SFTPFileNotFound,
    SFTPNameError,
)
from asyncworker.sftp import BulkProgress, FileResult, SFTPPool, download, upload
from tests.integration.sftp.conftest import Folders, behind, grown, in_mid_run, pool_of
from tests.integration.sftp.test_get import settled
from tests.servers import sftp_wire as wire
from tests.servers.proxy import running_proxy
from tests.servers.sftp import SFTPServer, running_sftp_server
from tests.servers.sftp_scripted import Request, Scripted
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer
MEGABYTE = 1024 * 1024


def make_tree(root: Path, files: dict[str, bytes]) -> None:
    for number, (name, content) in enumerate(files.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (1_600_000_000 + number,) * 2)


def tree(root: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def some_files(seed: int = 1) -> dict[str, bytes]:
    chance = random.Random(seed)
    files = {
        f"{a}/{b}/{c}.xml": chance.randbytes(chance.randrange(3000)) for a in "xy" for b in "12" for c in range(20)
    }
    files |= {f"{n}.txt": chance.randbytes(n) for n in range(30)}
    return files | {"medium": chance.randbytes(2 * MEGABYTE), "y/large": chance.randbytes(9 * MEGABYTE + 17)}


@pytest.mark.parametrize("fsync", [False, True])
async def test_everything_with_times_and_modes(any_server: Server, folders: Folders, fsync: bool) -> None:
    files = some_files()
    make_tree(folders.remote, files)
    (folders.remote / "empty" / "deep").mkdir(parents=True)
    (folders.remote / "0.txt").chmod(0o4751)
    steps: list[BulkProgress] = []
    results: list[FileResult] = []
    async with pool_of(any_server) as pool:
        report = await download(
            pool, folders.remote, folders.local, fsync=fsync, on_progress=steps.append, on_file=results.append
        )
        assert await settled(pool)
    report.raise_for_errors()
    assert tree(folders.local) == files
    assert (folders.local / "empty" / "deep").is_dir()
    for name in files:
        assert (folders.local / name).stat().st_mtime == (folders.remote / name).stat().st_mtime
    assert stat.S_IMODE((folders.local / "0.txt").stat().st_mode) & ~0o751 == 0
    size = sum(map(len, files.values()))
    assert (report.files_done, report.files_found, report.bytes_done) == (len(files), len(files), size)
    assert report.ok
    assert steps[-1] == report or steps[-1].bytes_done == report.bytes_done
    assert steps[-1].listed
    assert len(results) == len(files)


@pytest.mark.promise("sftp-unchanged-files-stay")
async def test_a_second_run_moves_only_what_changed(server: Server, folders: Folders, sftp_pool: SFTPPool) -> None:
    files = some_files()
    make_tree(folders.remote, files)
    await download(sftp_pool, folders.remote, folders.local)
    again = await download(sftp_pool, folders.remote, folders.local)
    assert (again.files_found, again.files_skipped) == (0, len(files))
    changed = {"0.txt": b"other", "y/1/3.xml": b"new"}
    make_tree(folders.remote, changed)
    third = await download(sftp_pool, folders.remote, folders.local)
    assert third.files_done == 2
    assert tree(folders.local) == files | changed
    assert (await download(sftp_pool, folders.remote, folders.local, skip="never")).files_done == len(files)


@pytest.mark.parametrize(
    ("skip", "left_out"),
    [("never", set()), ("same", {"same"}), ("size", {"same", "older", "newer"}), ("newer", {"same", "newer", "grown"})],
)
async def test_what_is_there_already(sshd: Sshd, folders: Folders, skip: str, left_out: set[str]) -> None:
    now = 1_600_000_000
    for name, local, mtime in [
        ("same", b"abc", now),
        ("older", b"abc", now - 5),
        ("newer", b"abc", now + 5),
        ("grown", b"abcdef", now),
        ("missing", None, 0),
    ]:
        os.utime(folders.make(name, b"ABC"), (now, now))
        if local is not None:
            (folders.local / name).write_bytes(local)
            os.utime(folders.local / name, (mtime, mtime))
    async with pool_of(sshd) as pool:
        report = await download(pool, folders.remote, folders.local, skip=skip)  # type: ignore[arg-type]
    kept = {name for name, content in tree(folders.local).items() if content != b"ABC"}
    assert kept == left_out
    assert report.files_skipped == len(left_out)


CHOICES = [
    ({"include": "*.xml"}, lambda name: name.endswith(".xml")),
    ({"include": "x/**/*.xml"}, lambda name: name.startswith("x/")),
    ({"include": ["*.txt", "y/1/*"]}, lambda name: name.endswith(".txt") or name.startswith("y/1/")),
    ({"exclude": "x"}, lambda name: not name.startswith("x/")),
    ({"exclude": ["*.txt", "y/2"]}, lambda name: not name.endswith(".txt") and not name.startswith("y/2/")),
    ({"recursive": False}, lambda name: "/" not in name),
    ({"max_depth": 1}, lambda name: name.count("/") < 2),
    (
        {"min_size_bytes": 10, "max_size_bytes": 20, "include": "*.txt"},
        lambda name: name in map("{}.txt".format, range(10, 21)),
    ),
]


@pytest.mark.parametrize(("options", "wanted"), CHOICES, ids=[str(options) for options, _ in CHOICES])
async def test_choices(sshd: Sshd, folders: Folders, options: dict[str, object], wanted: object) -> None:
    files = {name: content[:100] for name, content in some_files().items()}
    make_tree(folders.remote, files)
    async with pool_of(sshd) as pool:
        await download(pool, folders.remote, folders.local, **options)  # type: ignore[arg-type]
    assert set(tree(folders.local)) == set(filter(wanted, files))  # type: ignore[arg-type]


async def test_patterns_single_files_and_what_is_not_there(sshd: Sshd, folders: Folders, tmp_path: Path) -> None:
    files = {name: content[:100] for name, content in some_files().items()}
    make_tree(folders.remote, files)
    folders.make("[odd]*", b"odd")
    async with pool_of(sshd) as pool:
        await download(pool, f"{folders.remote}/1*.txt", tmp_path / "pattern")
        assert set(tree(tmp_path / "pattern")) == {"1.txt", *(f"1{n}.txt" for n in range(10))}
        await download(pool, f"{folders.remote}/*/1/3.xml", tmp_path / "deep")
        assert set(tree(tmp_path / "deep")) == {"x/1/3.xml", "y/1/3.xml"}
        await download(pool, f"{folders.remote}/[odd]*", tmp_path / "one")
        assert (tmp_path / "one").read_bytes() == b"odd"
        await download(pool, folders.remote / "3.txt", tmp_path / "made" / "there")
        assert (tmp_path / "made" / "there").read_bytes() == files["3.txt"]
        await download(pool, folders.remote / "4.txt", tmp_path / "made")
        assert (tmp_path / "made" / "4.txt").read_bytes() == files["4.txt"]
        with pytest.raises(SFTPFileNotFound, match="/not/there"):
            await download(pool, "/not/there", tmp_path / "nothing")
        with pytest.raises(SettingsError, match="sometimes"):
            await download(pool, "/", tmp_path / "nothing", skip="sometimes")  # type: ignore[arg-type]
        with pytest.raises(SettingsError, match="port"):
            await download(pool, "/", tmp_path / "nothing", port=1)
    assert not (tmp_path / "nothing").exists()


async def test_a_pattern_of_a_path_meets_no_hidden_names_as_in_a_shell(
    sshd: Sshd, folders: Folders, tmp_path: Path
) -> None:
    make_tree(folders.remote, {"a": b"a", ".b": b"b", "c/.d": b"d", ".e/f": b"f"})
    async with pool_of(sshd) as pool:
        for pattern, found in (
            ("*", {"a", "c/.d"}),  # what is in a folder that meets it is meant whole
            (".*", {".b", ".e/f"}),
            ("**", {"a", "c/.d"}),
            ("*/*", None),
            ("*/.*", {"c/.d"}),
        ):
            goal = tmp_path / pattern.replace("*", "x").replace("/", "-")
            report = await download(pool, f"{folders.remote}/{pattern}", goal)
            assert report.ok == (found is not None)
            assert set(tree(goal)) == (found or set())


@pytest.mark.promise("sftp-dry-run-moves-nothing")
async def test_a_trial_moves_nothing(sshd: Sshd, folders: Folders, tmp_path: Path) -> None:
    make_tree(folders.remote, {"a/b": b"x", "c": b"y"})
    would: list[FileResult] = []
    async with pool_of(sshd) as pool:
        report = await download(pool, folders.remote, tmp_path / "new", dry_run=True, on_file=would.append)
    assert (report.files_found, report.bytes_found, report.files_done) == (2, 2, 0)
    assert {result.local for result in would} == {str(tmp_path / "new" / "a" / "b"), str(tmp_path / "new" / "c")}
    assert not (tmp_path / "new").exists()


async def test_from_a_host_by_name(server: Server, folders: Folders) -> None:
    make_tree(folders.remote, {"a": b"x"})
    login = {"port": server.port, "username": server.username, "client_keys": server.client_key}
    report = await download(server.host, folders.remote, folders.local, known_hosts=server.known_hosts, **login)
    assert report.ok
    assert tree(folders.local) == {"a": b"x"}
    with pytest.raises(SFTPConnectError):
        await download(server.host, "/", folders.local, known_hosts=folders.local / "none", **login)


async def test_by_url_down_and_up(server: Server, folders: Folders) -> None:
    make_tree(folders.remote, {"in/a b%.xml": b"x", "in/other": b"y"})
    login = {"client_keys": server.client_key, "known_hosts": server.known_hosts}
    where = f"sftp://{server.username}@{server.host}:{server.port}"
    await download(f"{where}{folders.remote}/in/a%20b%25.xml", folders.local / "one", **login)
    assert tree(folders.local) == {"one": b"x"}
    await download(f"{where}{folders.remote}/in/*.xml", folders.local, **login)
    assert tree(folders.local) == {"one": b"x", "a b%.xml": b"x"}
    await upload(f"{where}{folders.remote}/new%20one", folders.local, **login)
    assert tree(folders.remote / "new one") == tree(folders.local)
    async with SFTPPool(where, **login) as pool:
        assert (await pool.stat(folders.remote)).is_dir


# -- hostile and odd ---------------------------------------------------------------------------------------------------


async def test_links_and_special_files_stay_out_unless_asked_for(
    server: Server, folders: Folders, sftp_pool: SFTPPool
) -> None:
    make_tree(folders.remote, {"file": b"x", "folder/file": b"y"})
    (folders.remote / "link").symlink_to("file")
    (folders.remote / "dangling").symlink_to("nothing")
    (folders.remote / "up").symlink_to("..")
    os.mkfifo(folders.remote / "pipe")
    report = await download(sftp_pool, folders.remote, folders.local)
    assert tree(folders.local) == {"file": b"x", "folder/file": b"y"}
    assert report.files_skipped == 4
    followed = await download(sftp_pool, folders.remote, folders.local, links="follow")
    assert tree(folders.local) == {"file": b"x", "folder/file": b"y", "link": b"x"}
    assert not (folders.local / "link").is_symlink()
    assert [result.remote for result in followed.errors] == [str(folders.remote / "dangling")]


@pytest.mark.promise("sftp-writes-nothing-outside")
async def test_links_in_the_destination_lead_nowhere(sshd: Sshd, folders: Folders, tmp_path: Path) -> None:
    make_tree(folders.remote, {"a": b"new", "folder/b": b"new", "c": b"fine"})
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a").write_bytes(b"old")
    (folders.local / "a").symlink_to(outside / "a")
    (folders.local / "folder").symlink_to(outside)
    async with pool_of(sshd) as pool:
        report = await download(pool, folders.remote, folders.local, skip="never")
    assert tree(outside) == {"a": b"old"}
    assert not (folders.local / "a").is_symlink()
    assert (folders.local / "a").read_bytes() == b"new"
    assert {result.local for result in report.errors} == {
        str(folders.local / "folder"),
        str(folders.local / "folder" / "b"),
    }
    assert (folders.local / "c").read_bytes() == b"fine"


HOSTILE = [b"../evil", b"/etc/evil", b"a/b", b"a\\b", b"", b"nul\0", b"bell\x07", b"new\nline", b"x" * 256]


@pytest.mark.promise("sftp-writes-nothing-outside")
async def test_hostile_names_are_errors_and_the_rest_arrives(folders: Folders, tmp_path: Path) -> None:
    names = (b"good", *HOSTILE, b"caf\xe9", b"..", b".", b"also good")
    script = Scripted({b"/in/" + name: b"x" for name in names}, listing=names)

    def bend(request: Request, answer: bytes) -> bytes:
        if request.kind == 17:  # STAT of the folder
            return wire.attrs(request.id, 0, 0o40755, 1)
        return answer

    script.bend = bend
    before = {path for path in tmp_path.rglob("*") if folders.local not in path.parents}
    with running_sftp_server(folders.remote / "server", raw=script) as server:
        async with pool_of(server) as pool:
            report = await download(pool, "/in", folders.local)
            assert await settled(pool)
    assert {os.fsencode(path.name) for path in folders.local.iterdir()} == {b"good", b"caf\xe9", b"also good"}
    assert report.files_failed == len(HOSTILE)
    assert all(isinstance(result.error, SFTPNameError) for result in report.errors)
    after = {path for path in tmp_path.rglob("*") if folders.local not in path.parents}
    assert {path for path in after - before if folders.remote not in path.parents} == set()
    with pytest.raises(ItemErrors, match="failed"):
        report.raise_for_errors()


async def test_names_that_differ_in_case_only(sshd: Sshd, folders: Folders) -> None:
    make_tree(folders.remote, {"File": b"1", "file": b"2", "Folder/a": b"3", "folder/A": b"4"})
    async with pool_of(sshd) as pool:
        report = await download(pool, folders.remote, folders.local, case_collisions="refuse")
        assert report.files_failed == 2
        assert len(tree(folders.local)) == 2
        await download(pool, folders.remote, folders.local)
    assert len(tree(folders.local)) == 4


async def test_one_that_cannot_be_read_fails_alone(folders: Folders) -> None:
    files = {f"/in/{n}".encode(): b"x" for n in range(20)}

    def bend(request: Request, answer: bytes) -> bytes:
        if request.kind == 17:
            return wire.attrs(request.id, 0, 0o40755, 1)
        if request.kind == 3 and request.text == b"/in/7":
            script.open_handles.remove(request.text)
            return wire.status(request.id, 3)
        return answer

    script = Scripted(files, listing=tuple(path[4:] for path in files), bend=bend)
    with running_sftp_server(folders.remote / "server", raw=script) as server:
        async with pool_of(server) as pool:
            report = await download(pool, "/in", folders.local)
    assert [(result.remote, result.local) for result in report.errors] == [("/in/7", str(folders.local / "7"))]
    assert report.files_done == 19


async def test_a_folder_in_the_place_of_a_file_and_the_other_way_round(sshd: Sshd, folders: Folders) -> None:
    make_tree(folders.remote, {"a": b"x", "b/c": b"y", "d": b"z"})
    (folders.local / "a").mkdir()
    (folders.local / "b").write_bytes(b"")
    async with pool_of(sshd) as pool:
        report = await download(pool, folders.remote, folders.local)
    assert {Path(result.local).name for result in report.errors} == {"a", "b", "c"}
    assert all(isinstance(result.error, OSError) for result in report.errors)
    assert (folders.local / "d").read_bytes() == b"z"


# -- large files -------------------------------------------------------------------------------------------------------


def parts(folder: Path) -> list[Path]:
    return list(folder.rglob(".*.part"))


@pytest.mark.parametrize("size", [8 * MEGABYTE, 8 * MEGABYTE + 1, 20 * MEGABYTE - 1])
async def test_large_files_over_all_connections(each_way: Server, folders: Folders, size: int) -> None:
    content = random.Random(size).randbytes(size)
    folders.make("large", content)
    async with pool_of(each_way, connections=3) as pool:
        await download(pool, folders.remote, folders.local)
        assert await settled(pool)
    assert tree(folders.local) == {"large": content}


def fetched(folders: Folders, size: int) -> bool:
    """Whether a part has grown beyond that size."""
    return grown(parts(folders.local), size)


async def stopped(server: Server, folders: Folders, size: int) -> Path:
    """Stop a download of a large file over a line that is silent by then; returns the part that it leaves."""
    with running_proxy(server.port) as proxy:
        async with pool_of(server, **behind(proxy, server)) as pool:
            job = asyncio.create_task(download(pool, folders.remote, folders.local))
            await in_mid_run(job, lambda: fetched(folders, size))
            proxy.partition()
            assert not job.done()
            job.cancel()
            await asyncio.wait([job])
            assert job.cancelled()
    assert not (folders.local / "large").exists()
    (part,) = parts(folders.local)
    return part


@pytest.mark.promise("sftp-large-file-continues")
async def test_a_large_file_goes_on_where_it_stopped(each_way: Server, folders: Folders) -> None:
    content = random.Random(1).randbytes(40 * MEGABYTE)
    folders.make("large", content)
    part = await stopped(each_way, folders, 24 * MEGABYTE)
    with running_proxy(each_way.port) as proxy:
        async with pool_of(each_way, **behind(proxy, each_way)) as pool:
            report = await download(pool, folders.remote, folders.local)
            assert await settled(pool)
        assert proxy.from_server < len(content) * 0.8
    assert tree(folders.local) == {"large": content}
    assert not part.exists()
    assert report.bytes_done == len(content)


@pytest.mark.parametrize("change", ["mtime", "size", "damaged", "content"])
async def test_a_part_of_another_file_is_not_used(sshd: Sshd, folders: Folders, change: str) -> None:
    old, new = b"o" * (40 * MEGABYTE), b"n" * (40 * MEGABYTE + (change == "size"))
    path = folders.make("large", old)
    os.utime(path, (1_600_000_000, 1_600_000_000))
    part = await stopped(sshd, folders, 24 * MEGABYTE)
    if change == "damaged":
        part.write_bytes(b"d" * (40 * MEGABYTE + 32))
    folders.make("large", new)
    mtime = 1_600_000_000 + (change == "mtime")
    os.utime(path, (mtime, mtime))
    async with pool_of(sshd) as pool:
        report = await download(pool, folders.remote, folders.local)
    assert report.errors == ()
    assert (folders.local / "large").read_bytes() == new


async def test_a_large_file_that_changes_is_never_kept(server: Server, folders: Folders) -> None:
    path = folders.make("large", b"o" * (40 * MEGABYTE))
    with running_proxy(server.port) as proxy:
        async with pool_of(server, **behind(proxy, server)) as pool:
            job = asyncio.create_task(download(pool, folders.remote, folders.local))
            await in_mid_run(job, lambda: fetched(folders, 4 * MEGABYTE))
            proxy.partition()
            os.utime(path, (1, 1))
            assert not job.done()
            proxy.heal()
            report = await job
            assert await settled(pool)
    assert [type(result.error) for result in report.errors] == [SFTPFileChanged]
    assert tree(folders.local) == {}


async def test_stopped_at_any_time_leaves_only_parts_of_large_files(each_way: Server, folders: Folders) -> None:
    files = some_files()
    make_tree(folders.remote, files)
    async with pool_of(each_way) as pool:
        for delay in (0, 0.005, 0.02, 0.05, 0.1, 0.2):
            job = asyncio.create_task(download(pool, folders.remote, folders.local))
            await asyncio.sleep(delay)
            job.cancel()
            await asyncio.wait([job])
            assert await settled(pool)
            found = tree(folders.local)
            assert {name: found[name] for name in found if name in files} == {
                name: files[name] for name in found if name in files
            }
            assert all(".large." in name for name in found if name not in files)
        await download(pool, folders.remote, folders.local)
    assert tree(folders.local) == files


async def test_connections_cut_in_mid_run_cost_nothing(each_way: Server, folders: Folders) -> None:
    files = some_files() | {"larger": random.Random(1).randbytes(64 * MEGABYTE)}
    make_tree(folders.remote, files)
    with running_proxy(each_way.port) as proxy:
        async with pool_of(each_way, **behind(proxy, each_way), connections=3) as pool:
            job = asyncio.create_task(download(pool, folders.remote, folders.local))
            for size in (16 * MEGABYTE, 40 * MEGABYTE):
                await in_mid_run(job, lambda size=size: fetched(folders, size))  # type: ignore[misc]
                await in_mid_run(job, proxy.cut)
            report = await job
            assert await settled(pool)
    assert report.errors == ()
    assert tree(folders.local) == files


async def test_a_server_that_goes_away_is_an_error_for_each_file(tmp_path: Path, folders: Folders) -> None:
    make_tree(folders.remote, {f"{n}": b"x" * 900_000 for n in range(50)})
    with running_sftp_server(tmp_path / "server") as server, running_proxy(server.port) as proxy:
        pool = pool_of(server, **behind(proxy, server), connect_timeout_s=2)
        job = asyncio.create_task(download(pool, folders.remote, folders.local, at_once=2))
        await in_mid_run(job, lambda: len(tree(folders.local)) >= 10)  # and all are listed
        proxy.partition()
        assert not job.done()
        await asyncio.to_thread(proxy.stop_listening)
        proxy.heal()
        await asyncio.to_thread(server.drop_connections)
        async with asyncio.timeout(120):
            report = await job
        await pool.close()
    assert report.files_done + report.files_failed == report.files_found == 50
    assert report.files_failed > 0
    assert not parts(folders.local)
