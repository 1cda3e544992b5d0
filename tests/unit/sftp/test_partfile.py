"""A part of a large file is gone on with, or thrown away, and never taken for another's."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncworker.sftp.folders import OpenFolder
from asyncworker.sftp.partfile import PartFile

SIZE = 1000


def opened(folder: Path, size: int = SIZE, mtime: int = 7, **options: Any) -> PartFile:
    return PartFile(str(folder / "goal"), OpenFolder(os.open(folder, os.O_RDONLY)), size, mtime, 0o4640, **options)


def part_written(folder: Path, whole: int = 600) -> None:
    part = opened(folder)
    part.write([(0, b"x" * 600), (800, b"y" * 100)], whole)
    part.keep()


def test_goes_on_where_it_stopped_and_becomes_the_file(tmp_path: Path) -> None:
    part_written(tmp_path)
    part = opened(tmp_path)
    assert part.whole == 600
    part.write([(600, b"z" * 400)], SIZE)
    part.commit(sync=True)
    (goal,) = tmp_path.iterdir()
    assert goal.read_bytes() == b"x" * 600 + b"z" * 400
    assert (goal.stat().st_mtime, goal.stat().st_mode & 0o7777) == (7, 0o640)


@pytest.mark.parametrize("other", [{"size": SIZE + 1}, {"mtime": 8}, {"resume": False}, {"origin": b"elsewhere"}])
def test_another_file_begins_anew(tmp_path: Path, other: dict[str, Any]) -> None:
    part_written(tmp_path)
    part = opened(tmp_path, **other)
    assert part.whole == 0
    part.discard()


@given(st.binary(max_size=1100))
def test_whatever_stands_there_is_taken_only_with_a_mark(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    folder = tmp_path_factory.mktemp("junk")
    part_written(folder)
    (path,) = folder.iterdir()
    path.write_bytes(junk)
    part = opened(folder)
    assert part.whole == 0
    part.discard()
    assert list(folder.iterdir()) == []


def test_a_mark_of_before_a_restart_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part_written(tmp_path)
    monkeypatch.setattr("asyncworker.sftp.partfile._boot", lambda: b"another start...")
    part = opened(tmp_path)
    assert part.whole == 0
    part.discard()


def plant(path: Path, what: str, victim: Path) -> None:
    """Put something under a name that can be foreseen."""
    match what:
        case "link":
            path.symlink_to(victim)
        case "dangling link":
            path.symlink_to(victim.with_name("nowhere"))
        case "second name":
            path.hardlink_to(victim)
        case "folder":
            path.mkdir()
            (path / "x").touch()
        case "pipe":
            os.mkfifo(path)


@pytest.mark.parametrize("what", ["link", "dangling link", "second name", "folder", "pipe"])
def test_what_stands_under_its_name_is_left_alone_and_does_not_keep_the_file_away(tmp_path: Path, what: str) -> None:
    part_written(tmp_path)
    (path,) = tmp_path.iterdir()
    path.unlink()
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    plant(path, what, victim)
    before = path.lstat()
    part = opened(tmp_path)
    part.write([(0, b"x" * SIZE)], SIZE)
    part.commit(sync=False)
    assert (tmp_path / "goal").read_bytes() == b"x" * SIZE
    assert victim.read_bytes() == b"precious"
    assert path.lstat() == before
    part = opened(tmp_path)
    part.write([(0, b"x" * 10)], 10)
    part.keep()
    assert {entry.name for entry in tmp_path.iterdir()} == {"goal", "victim", path.name}  # what nobody could go on with


def test_a_copy_of_a_part_is_not_trusted(tmp_path: Path) -> None:
    part_written(tmp_path)
    (path,) = tmp_path.iterdir()
    copy = tmp_path / "copy"
    copy.write_bytes(path.read_bytes())
    copy.replace(path)
    part = opened(tmp_path)
    assert part.whole == 0
    part.discard()


@pytest.mark.parametrize("ends", ["commit", "discard"])
def test_whoever_locks_what_another_has_just_finished_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """The second one has opened the part, and the first one finishes before it is locked."""
    first = opened(tmp_path)
    first.write([(0, b"x" * SIZE)], SIZE)
    flock = fcntl.flock

    def lock(fd: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        first.commit(sync=False) if ends == "commit" else first.discard()
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", lock)
    second = opened(tmp_path)
    assert second.whole == 0
    goal = tmp_path / "goal"
    assert (goal.read_bytes() if goal.exists() else None) == (b"x" * SIZE if ends == "commit" else None)
    second.write([(0, b"y" * SIZE)], SIZE)
    second.commit(sync=False)
    assert [path.name for path in tmp_path.iterdir()] == ["goal"]
    assert goal.read_bytes() == b"y" * SIZE


@pytest.mark.parametrize("mode", [0, 0o400, 0o444])
def test_a_part_of_a_read_only_file_is_not_taken_from_who_writes_it(tmp_path: Path, mode: int) -> None:
    folder = OpenFolder(os.open(tmp_path, os.O_RDONLY))
    first = PartFile(str(tmp_path / "goal"), folder, SIZE, 7, mode)
    first.write([(0, b"x" * SIZE)], SIZE)
    with pytest.raises(BlockingIOError):
        PartFile(str(tmp_path / "goal"), folder, SIZE, 7, mode)
    first.keep()
    again = PartFile(str(tmp_path / "goal"), folder, SIZE, 7, mode)
    assert again.whole == SIZE
    again.commit(sync=False)
    (goal,) = tmp_path.iterdir()
    assert goal.stat().st_mode & 0o777 == mode


def test_a_part_whose_name_something_else_has_taken_is_never_the_file(tmp_path: Path) -> None:
    part = opened(tmp_path)
    part.write([(0, b"x" * SIZE)], SIZE)
    (path,) = tmp_path.iterdir()
    path.unlink()
    path.write_bytes(b"something else")
    with pytest.raises(OSError, match="goal"):
        part.commit(sync=False)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"something else"


def test_two_at_once_are_told_apart(tmp_path: Path) -> None:
    part = opened(tmp_path)
    with pytest.raises(BlockingIOError, match="another process"):
        opened(tmp_path)
    part.discard()


def test_nothing_is_kept_of_what_has_no_beginning(tmp_path: Path) -> None:
    part = opened(tmp_path)
    part.write([(500, b"x")], 0)
    part.keep()
    assert list(tmp_path.iterdir()) == []


def test_a_write_after_the_end_goes_nowhere(tmp_path: Path) -> None:
    part = opened(tmp_path)
    part.discard()
    other = (tmp_path / "other").open("wb")
    with pytest.raises(OSError, match="goal"):
        part.write([(0, b"x")], 1)
    other.close()
    assert (tmp_path / "other").read_bytes() == b""
