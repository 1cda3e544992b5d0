"""Filters in both directions: what is left out, what is said of it, and patterns that nothing meets."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from asyncworker.errors import SettingsError, SFTPError, SFTPFileNotFound
from asyncworker.sftp import BulkReport, FileResult, SFTPPool, download, upload
from tests.integration.sftp.conftest import Folders, pool_of
from tests.servers.sshd import Sshd

Direction = Literal["down", "up"]

NAMES = ("a.xml", "b.txt", "c.tmp", "sub/d.xml", "sub/deep/e.txt", "old/sub/f.xml", "old/g.txt")


@pytest.fixture(params=["down", "up"])
def direction(request: pytest.FixtureRequest) -> Direction:
    found: Direction = request.param
    return found


def make(folder: Path, names: tuple[str, ...] = NAMES) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


async def move(pool: SFTPPool, direction: Direction, source: Any, goal: Path, **options: Any) -> BulkReport:
    if direction == "down":
        return await download(pool, source, goal, **options)
    return await upload(pool, source, goal, **options)


CHOICES: list[tuple[dict[str, Any], set[str]]] = [
    ({"exclude": "sub/"}, {"a.xml", "b.txt", "c.tmp", "old/g.txt"}),
    ({"exclude": "/sub/"}, {"a.xml", "b.txt", "c.tmp", "old/sub/f.xml", "old/g.txt"}),
    ({"exclude": ["*.tmp", "old/**"]}, {"a.xml", "b.txt", "sub/d.xml", "sub/deep/e.txt"}),
    ({"include": "sub/"}, {"sub/d.xml", "sub/deep/e.txt", "old/sub/f.xml"}),
    ({"include": "*.xml", "exclude": "old"}, {"a.xml", "sub/d.xml"}),
    ({"filters": ["- old/", "+ *.xml", "+ */", "- *"]}, {"a.xml", "sub/d.xml"}),
    ({"filters": ["+ /old/sub/", "- /old/*", "- *.t*"]}, {"a.xml", "sub/d.xml", "old/sub/f.xml"}),
    ({"filters": "+ c.tmp", "exclude": "*.t*"}, {"a.xml", "c.tmp", "sub/d.xml", "old/sub/f.xml"}),
    ({"include": "{a,d}.{xml,txt}"}, {"a.xml", "sub/d.xml"}),
    ({"paths": ["a.xml", "./sub/deep/", "/old/g.txt", "a.xml"]}, {"a.xml", "sub/deep/e.txt", "old/g.txt"}),
    ({"paths": ["a.xml", "sub", "b.txt"], "exclude": ["*.txt"]}, {"a.xml", "sub/d.xml"}),
    ({"paths": ["sub/d.xml", "sub/deep/e.txt"], "exclude": ["deep/"]}, {"sub/d.xml"}),
]


@pytest.mark.parametrize(("options", "wanted"), CHOICES, ids=[str(options) for options, _ in CHOICES])
async def test_what_is_wanted(
    sshd: Sshd, folders: Folders, direction: Direction, options: dict[str, Any], wanted: set[str]
) -> None:
    make(folders.remote)
    async with pool_of(sshd) as pool:
        report = await move(pool, direction, folders.remote, folders.local / "goal", **options)
    assert report.ok, report.errors
    assert files(folders.local / "goal") == wanted
    assert report.files_done == len(wanted)


async def test_each_file_that_is_left_out_is_said_with_its_reason(
    sshd: Sshd, folders: Folders, direction: Direction
) -> None:
    make(folders.remote)
    (folders.remote / "large").write_bytes(bytes(1000))
    (folders.remote / "link").symlink_to("a.xml")
    os.utime(folders.remote / "b.txt", (1e9, 1e9))
    make(folders.local, ("a.xml",))
    os.utime(folders.local / "a.xml", (1.5e9, 1.5e9))
    os.utime(folders.remote / "a.xml", (1.5e9, 1.5e9))
    skipped: list[FileResult] = []
    options = {
        "exclude": ["*.tmp", "old/", "sub/"],
        "max_size_bytes": 100,
        "newer_than": datetime(2010, 1, 1, tzinfo=UTC),
        "on_skipped": skipped.append,
    }
    async with pool_of(sshd) as pool:
        report = await move(pool, direction, folders.remote, folders.local, **options)
    assert report.ok
    path = (lambda result: result.remote) if direction == "down" else (lambda result: result.local)
    reasons = {Path(path(result)).name: (result.outcome, result.reason) for result in skipped}
    assert reasons == {
        "a.xml": ("skipped", "same size and time"),
        "b.txt": ("skipped", "too old"),
        "c.tmp": ("skipped", "filters"),
        "large": ("skipped", "too large"),
        "link": ("skipped", "a link"),
    }
    assert (report.files_skipped, report.files_filtered, report.files_done) == (2, 3, 0)
    assert {result.size_bytes for result in skipped if result.reason == "too large"} == {1000}


async def test_ages(sshd: Sshd, folders: Folders, direction: Direction) -> None:
    now = datetime.now(UTC)
    for hours in (1, 3, 5):
        made = (now - timedelta(hours=hours)).timestamp()
        folders.make(str(hours), b"x")
        os.utime(folders.remote / str(hours), (made, made))
    async with pool_of(sshd) as pool:
        await move(pool, direction, folders.remote, folders.local / "new", newer_than=timedelta(hours=4))
        await move(pool, direction, folders.remote, folders.local / "old", older_than=timedelta(hours=2))
        await move(
            pool, direction, folders.remote, folders.local / "mid",
            newer_than=timedelta(hours=4), older_than=timedelta(hours=2),
        )  # fmt: skip
        with pytest.raises(SettingsError, match="time zone"):
            await move(pool, direction, folders.remote, folders.local / "no", newer_than=datetime(2020, 1, 1))
    assert {name: files(folders.local / name) for name in ("new", "old", "mid")} == {
        "new": {"1", "3"},
        "old": {"3", "5"},
        "mid": {"3"},
    }


async def test_filters_hold_for_one_file_as_well(sshd: Sshd, folders: Folders, direction: Direction) -> None:
    file = folders.make("a.xml", b"a")
    async with pool_of(sshd) as pool:
        for options in ({"exclude": "*.xml"}, {"filters": "- a*"}, {"min_size_bytes": 2}):
            report = await move(pool, direction, file, folders.local / "b", **options)
            assert (report.files_done, report.files_filtered, report.ok) == (0, 1, True), options
            assert "left out by the filters" in report.warnings[0]
        assert files(folders.local) == set()
        report = await move(pool, direction, file, folders.local / "b.txt", include="*.xml")
        assert report.files_done == 1  # its own name counts, not the one that it gets


async def test_a_pattern_that_nothing_meets_is_an_error(sshd: Sshd, folders: Folders, direction: Direction) -> None:
    make(folders.remote)
    async with pool_of(sshd) as pool:
        report = await move(pool, direction, folders.remote, folders.local, include="*.xlm")
        assert not report.ok
        assert "no file meets include *.xlm" in str(report.errors[0].error)
        report = await move(pool, direction, folders.remote, folders.local, include="*.xlm", allow_empty=True)
        assert report.ok
        assert files(folders.local) == set()
        report = await move(pool, direction, folders.remote, folders.local, include=["*.xml", "*.xlm"])
        assert report.ok
        assert report.warnings == ("no file meets include *.xlm",)


async def test_a_pattern_in_the_path_that_nothing_meets_is_an_error(sshd: Sshd, folders: Folders) -> None:
    make(folders.remote)
    async with pool_of(sshd) as pool:
        report = await download(pool, f"{folders.remote}/*.xlm", folders.local)
        assert isinstance(report.errors[0].error, SFTPFileNotFound)
        assert f"{folders.remote}/*.xlm" in str(report.errors[0].error)
        assert (await download(pool, f"{folders.remote}/*.xlm", folders.local, allow_empty=True)).ok
        report = await download(pool, f"{folders.remote}/{{1..3000}}.xml", folders.local, allow_empty=True)
        assert report.ok


@pytest.mark.parametrize(
    ("pattern", "there"),
    [
        ("*", ["a.xml", "one/b.xml", "one/deep/c.txt", "two/b.xml", "x.xml/inside.txt"]),
        ("[ot]*", ["one/b.xml", "one/deep/c.txt", "two/b.xml"]),
        ("{one,x.xml}", ["one/b.xml", "one/deep/c.txt", "x.xml/inside.txt"]),
        ("*.xml", ["a.xml", "x.xml/inside.txt"]),
        ("*/*.xml", ["one/b.xml", "two/b.xml"]),
        ("*/deep", ["one/deep/c.txt"]),
        ("**/deep", ["one/deep/c.txt"]),
        ("one/*", ["b.xml", "deep/c.txt"]),
    ],
)
async def test_a_folder_that_meets_a_pattern_in_the_path_is_taken_whole(
    sshd: Sshd, folders: Folders, pattern: str, there: list[str]
) -> None:
    make(folders.remote, ("a.xml", "one/b.xml", "one/deep/c.txt", "two/b.xml", "x.xml/inside.txt"))
    (folders.remote / "empty").mkdir()
    async with pool_of(sshd) as pool:
        report = await download(pool, f"{folders.remote}/{pattern}", folders.local)
        assert report.ok, report.errors
        assert files(folders.local) == set(there)
        assert (folders.local / "empty").exists() is (pattern == "*")
        flat = await download(pool, f"{folders.remote}/*.xml", folders.local / "flat", recursive=False)
        assert flat.ok, flat.errors
        assert files(folders.local / "flat") == {"a.xml"}


async def test_a_pattern_enters_only_folders_that_meet_it(sshd: Sshd, folders: Folders) -> None:
    make(folders.remote, ("a.xml", "large/bad\nname.xml", "large/bad\nfolder/a.xml", "bad\nfolder/a.xml"))
    async with pool_of(sshd) as pool:
        report = await download(pool, f"{folders.remote}/*.xml", folders.local)
        assert report.ok, report.errors
        assert files(folders.local) == {"a.xml"}


async def test_an_empty_folder_is_no_error(sshd: Sshd, folders: Folders, direction: Direction) -> None:
    async with pool_of(sshd) as pool:
        report = await move(pool, direction, folders.remote, folders.local, exclude="*.tmp")
    assert report.ok
    assert report.warnings == ()


async def test_a_name_that_is_refused_matters_only_where_it_is_wanted(sshd: Sshd, folders: Folders) -> None:
    make(folders.remote, ("a.xml", "back\\slash.tmp", "new\nline.tmp", "bad\nfolder/x.xml"))
    async with pool_of(sshd) as pool:
        report = await download(pool, folders.remote, folders.local)
        assert report.files_failed == 3
        report = await download(pool, folders.remote, folders.local, exclude=["*.tmp", "bad*/"])
        assert report.ok, report.errors
        assert report.files_filtered == 2
        report = await download(pool, folders.remote, folders.local, include="*.xml")
        assert report.files_failed == 1  # a wanted file may be in that folder
        report = await download(pool, folders.remote, folders.local, include="*.xml", recursive=False)
        assert report.ok, report.errors


async def test_what_cannot_be_read_matters_only_where_it_is_wanted(sshd: Sshd, folders: Folders) -> None:
    make(folders.remote, ("a.xml",))
    (folders.remote / "dangling.tmp").symlink_to("nowhere")
    async with pool_of(sshd) as pool:
        report = await download(pool, folders.remote, folders.local, links="follow")
        assert report.files_failed == 1
        report = await download(pool, folders.remote, folders.local, links="follow", exclude="*.tmp")
        assert report.ok, report.errors


async def test_several_sources(sshd: Sshd, folders: Folders, direction: Direction) -> None:
    make(folders.remote)
    sources = [f"{folders.remote}/{name}" for name in ("a.xml", "sub", "old/", "missing", "b.txt")]
    async with pool_of(sshd) as pool:
        report = await move(pool, direction, sources, folders.local)
        assert files(folders.local) == {"a.xml", "b.txt", "sub/d.xml", "sub/deep/e.txt", "sub/f.xml", "g.txt"}
        assert len(report.errors) == 1
        assert "missing" in str(report.errors[0].error)
        again = await move(pool, direction, sources[:3], folders.local)
        assert (again.files_done, again.files_skipped, again.ok) == (0, 5, True)


@pytest.mark.parametrize("there", ["a.xml", "sub"])
async def test_one_of_two_sources_is_missing(sshd: Sshd, folders: Folders, direction: Direction, there: str) -> None:
    make(folders.remote)
    sources = [str(folders.remote / name) for name in ("missing", there)]
    async with pool_of(sshd) as pool:
        report = await move(pool, direction, sources, folders.local)
    assert files(folders.local) == {name for name in ("a.xml", "sub/d.xml", "sub/deep/e.txt") if there in name}
    assert [("missing" in str(one.error)) for one in report.errors] == [True]


async def test_a_link_that_is_named_is_the_file_that_it_leads_to(
    sshd: Sshd, folders: Folders, direction: Direction
) -> None:
    make(folders.remote)
    large = os.urandom(9 * 1024 * 1024)
    (folders.remote / "large").write_bytes(large)
    links = [folders.remote / "latest", folders.remote / "largest"]
    links[0].symlink_to("a.xml")
    links[1].symlink_to("large")
    async with pool_of(sshd) as pool:
        (await move(pool, direction, links[0], folders.local / "alone")).raise_for_errors()
        (await move(pool, direction, links, folders.local / "both")).raise_for_errors()
    assert (folders.local / "alone").read_bytes() == (folders.remote / "a.xml").read_bytes()
    assert not (folders.local / "alone").is_symlink()
    assert (folders.local / "both" / "latest").read_bytes() == (folders.remote / "a.xml").read_bytes()
    assert (folders.local / "both" / "largest").read_bytes() == large


async def test_a_pipe_that_is_named_is_an_error(sshd: Sshd, folders: Folders, direction: Direction) -> None:
    make(folders.remote)
    pipe = folders.remote / "pipe"
    os.mkfifo(pipe)
    async with pool_of(sshd) as pool:
        try:
            report = await move(pool, direction, pipe, folders.local / "alone")
            report.raise_for_errors()
        except* (OSError, SFTPError) as errors:
            assert "not a regular file" in str(errors.exceptions[0])
        else:
            pytest.fail("a pipe was moved, or left out without a word")
        report = await move(pool, direction, [pipe, folders.remote / "a.xml"], folders.local)
    assert files(folders.local) == {"a.xml"}
    assert ["not a regular file" in str(one.error) for one in report.errors] == [True]


async def test_named_paths_that_are_not_there_or_lead_out(sshd: Sshd, folders: Folders, direction: Direction) -> None:
    make(folders.remote)
    (folders.remote.parent / "secret").write_text("x")
    async with pool_of(sshd) as pool:
        report = await move(
            pool, direction, folders.remote, folders.local, paths=["a.xml", "../secret", "sub/../../secret", "gone", ""]
        )
        assert report.files_failed == 4
        with pytest.raises(SettingsError, match="list of paths"):
            await move(pool, direction, folders.remote, folders.local, paths="a.xml")
        with pytest.raises(SettingsError, match="one folder"):
            await move(pool, direction, folders.remote / "a.xml", folders.local, paths=["a"])
    assert files(folders.local) == {"a.xml"}


async def test_it_stops_after_so_many_failures(sshd: Sshd, folders: Folders) -> None:
    for number in range(300):
        folders.make(f"{number}", b"x")
        (folders.local / f"{number}").mkdir()
    async with pool_of(sshd) as pool:
        report = await download(pool, folders.remote, folders.local, max_failures=2, at_once=1)
    assert report.files_failed == 3
    assert report.stopped == "stopped after 3 failures"
    assert not report.ok
