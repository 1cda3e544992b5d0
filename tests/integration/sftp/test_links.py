"""Links that are kept as links, in both directions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from asyncworker.cli import main
from asyncworker.errors import SFTPNameError
from asyncworker.sftp import BulkReport, SFTPPool, download, upload
from tests.integration.sftp.conftest import Folders, links_as_they_are, pool_of, pool_on
from tests.servers.sftp import SFTPServer
from tests.servers.sftp_hostile import FAILURE, Hostile, Request
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer

KEPT = {"link": "a", "sub/up": "../a", "sub/folder": "deep", "dangling": "nowhere", "ünïcode": "sub/b"}


def make_tree(root: Path) -> None:
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "a").write_text("a")
    (root / "sub" / "b").write_text("b")
    (root / "sub" / "deep" / "c").write_text("c")
    for path, target in KEPT.items():
        (root / path).symlink_to(target)


def links_of(root: Path) -> dict[str, str]:
    return {
        os.path.relpath(path, root): os.readlink(path)  # noqa: PTH115  (as it stands there)
        for path in root.rglob("*")
        if path.is_symlink()
    }


async def move(direction: str, pool: SFTPPool, folders: Folders, **options: Any) -> BulkReport:
    if direction == "download":
        return await download(pool, folders.remote, folders.local, **options)
    return await upload(pool, folders.local, folders.remote, **options)


def sides(direction: str, folders: Folders) -> tuple[Path, Path]:
    """Where from and where to."""
    here_and_there = (folders.remote, folders.local)
    return here_and_there if direction == "download" else (folders.local, folders.remote)


@pytest.fixture(params=["download", "upload"])
def direction(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@links_as_they_are
async def test_links_are_made_as_links_and_left_alone_the_next_time(
    any_server: Server, folders: Folders, direction: str
) -> None:
    source, goal = sides(direction, folders)
    make_tree(source)
    async with pool_of(any_server) as pool:
        planned = await move(direction, pool, folders, links="keep", dry_run=True)
        assert (planned.files_found, links_of(goal)) == (3 + len(KEPT), {})
        first = await move(direction, pool, folders, links="keep")
        assert (first.ok, first.files_done, first.warnings) == (True, 3 + len(KEPT), ()), first.errors
        assert links_of(goal) == KEPT
        again = await move(direction, pool, folders, links="keep")
        assert (again.ok, again.files_done, again.files_skipped) == (True, 0, 3 + len(KEPT))
        (source / "link").unlink()
        (source / "link").symlink_to("sub/b")
        changed = await move(direction, pool, folders, links="keep")
        assert (changed.ok, changed.files_done) == (True, 1)
        assert links_of(goal) == KEPT | {"link": "sub/b"}
        never = await move(direction, pool, folders, links="keep", skip="never")
        assert (never.ok, never.files_done) == (True, 3 + len(KEPT)), never.errors
    assert (goal / "a").read_text() == "a"
    assert len(list(goal.rglob("*"))) == 3 + 2 + len(KEPT)  # nothing temporary is left


async def test_a_dry_run_refuses_the_links_that_would_be(sshd: Sshd, folders: Folders, direction: str) -> None:
    source, goal = sides(direction, folders)
    make_tree(source)
    (source / "out").symlink_to("../elsewhere")
    (source / "absolute").symlink_to("/elsewhere")
    (goal / "a").symlink_to("elsewhere")
    async with pool_of(sshd) as pool:
        planned = await move(direction, pool, folders, links="keep", dry_run=True)
        done = await move(direction, pool, folders, links="keep")
    for report in (planned, done):
        assert {type(one.error) for one in report.errors} == {SFTPNameError}
    assert sorted(str(one.error) for one in planned.errors) == sorted(str(one.error) for one in done.errors)
    assert (planned.files_failed, planned.files_found) == (2, done.files_found)


async def test_a_link_that_leads_out_is_refused_and_the_rest_is_moved(
    server: Server, folders: Folders, direction: str
) -> None:
    source, goal = sides(direction, folders)
    make_tree(source)
    for number, target in enumerate(("/etc/passwd", "../outside", "sub/../../outside")):
        (source / f"out{number}").symlink_to(target)
    async with pool_of(server) as pool:
        report = await move(direction, pool, folders, links="keep")
    assert report.files_failed == 3
    assert {type(result.error) for result in report.errors} == {SFTPNameError}
    assert all("refused the link" in str(result.error) for result in report.errors)
    assert links_of(goal) == KEPT


@links_as_they_are
async def test_a_file_in_its_place_is_replaced_and_a_folder_is_not(
    any_server: Server, folders: Folders, direction: str
) -> None:
    source, goal = sides(direction, folders)
    make_tree(source)
    (goal / "link").write_text("a file")
    (goal / "dangling").mkdir()
    (goal / "dangling" / "precious").write_text("x")
    async with pool_of(any_server) as pool:
        report = await move(direction, pool, folders, links="keep")
    assert [os.path.basename(result.remote) for result in report.errors] == ["dangling"]  # noqa: PTH119
    assert links_of(goal) == {path: target for path, target in KEPT.items() if path != "dangling"}
    assert (goal / "dangling" / "precious").read_text() == "x"
    assert sorted(path.name for path in goal.iterdir()) == sorted(path.name for path in source.iterdir())


async def test_replacing_links_touches_no_file_where_a_server_renames_what_they_lead_to(
    proftpd: Sshd, folders: Folders
) -> None:
    make_tree(folders.local)
    folders.remote.joinpath("link").write_text("a file")
    async with pool_of(proftpd) as pool:
        for _ in range(2):  # over a file; over the same links
            (await upload(pool, folders.local, folders.remote, links="keep", skip="never")).raise_for_errors()
            assert links_of(folders.remote) == KEPT
        report = await download(pool, folders.remote, folders.local.parent / "back", links="keep")
    assert (folders.remote / "a").read_text() == "a"
    assert (folders.remote / "sub" / "b").read_text() == "b"
    assert len(list(folders.remote.rglob("*"))) == 3 + 2 + len(KEPT)  # nothing temporary is left
    assert {type(result.error) for result in report.errors} == {SFTPNameError}  # their targets are told as absolute


@pytest.mark.parametrize("there", ["link", "file"])
async def test_what_was_there_comes_back_where_the_link_cannot_be_made(folders: Folders, there: str) -> None:
    (folders.local / "link").symlink_to("new")
    hostile = Hostile()
    if there == "link":
        hostile.tree.symlink("/in/link", "old")
    else:
        hostile.tree.write("/in/link", b"old")
    refused = []

    def refuse(request: Request) -> int | None:
        if request.kind != "SYMLINK" or request.second != b"new" or hostile.tree.exists("/in/link"):
            return None
        refused.append(request)
        return FAILURE if request.path == b"/in/link" else None

    hostile.refuse_if = refuse
    async with pool_on(hostile, folders.remote) as pool:
        report = await upload(pool, folders.local, "/in", links="keep")
        assert not report.ok
        assert refused
        if there == "link":
            assert await pool.readlink("/in/link") == "old"
    assert hostile.tree.paths("/in") == ["/in/link"]
    assert hostile.tree.files("/in") == ({} if there == "link" else {"/in/link": b"old"})


@pytest.mark.promise("sftp-writes-nothing-outside")
async def test_nothing_is_written_through_a_link_that_was_made(sshd: Sshd, folders: Folders) -> None:
    make_tree(folders.remote)
    async with pool_of(sshd) as pool:
        assert (await download(pool, folders.remote, folders.local, links="keep")).ok
        (folders.remote / "sub" / "folder").unlink()
        (folders.remote / "sub" / "folder").mkdir()
        (folders.remote / "sub" / "folder" / "new").touch()
        report = await download(pool, folders.remote, folders.local, links="keep")
    assert not report.ok
    assert not (folders.local / "sub" / "deep" / "new").exists()


async def test_filters_see_links_and_skip_is_the_default(sshd: Sshd, folders: Folders, direction: str) -> None:
    source, goal = sides(direction, folders)
    make_tree(source)
    async with pool_of(sshd) as pool:
        plain = await move(direction, pool, folders)
        assert (plain.files_skipped, links_of(goal)) == (len(KEPT), {})
        await move(direction, pool, folders, links="keep", exclude=["dangling", "sub/"])
    assert links_of(goal) == {"link": "a", "ünïcode": "sub/b"}


def test_links_from_the_shell(sshd: Sshd, folders: Folders) -> None:
    make_tree(folders.remote)
    login = ["-i", str(sshd.client_key), "--known-hosts", str(sshd.known_hosts), "--links", "keep"]
    url = f"sftp://{sshd.username}@127.0.0.1:{sshd.port}"
    done = CliRunner().invoke(main, ["sftp", "get", f"{url}{folders.remote}", str(folders.local), *login])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(main, ["sftp", "put", str(folders.local), f"{url}{folders.remote}2", *login])
    assert done.exit_code == 0, done.output
    assert links_of(folders.local) == links_of(Path(f"{folders.remote}2")) == KEPT
