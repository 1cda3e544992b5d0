"""A part of a large file is gone on with, or thrown away, and never taken for another's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncworker.sftp.folders import OpenFolder
from asyncworker.sftp.partfile import PartFile

SIZE = 1000


def opened(folder: Path, size: int = SIZE, mtime: int = 7, **options: bool) -> PartFile:
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


@pytest.mark.parametrize("other", [{"size": SIZE + 1}, {"mtime": 8}, {"resume": False}])
def test_another_file_begins_anew(tmp_path: Path, other: dict[str, int]) -> None:
    part_written(tmp_path)
    part = opened(tmp_path, **other)  # type: ignore[arg-type]
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


def test_a_link_or_a_second_name_in_its_place_is_never_written_through(tmp_path: Path) -> None:
    part_written(tmp_path)
    (path,) = tmp_path.iterdir()
    path.unlink()
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    path.symlink_to(victim)
    with pytest.raises(OSError, match="goal"):
        opened(tmp_path)
    path.unlink()
    path.hardlink_to(victim)
    part = opened(tmp_path)
    part.write([(0, b"x" * SIZE)], SIZE)
    part.commit(sync=False)
    assert victim.read_bytes() == b"precious"


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
