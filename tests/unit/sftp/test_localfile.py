"""The file that appears whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from asyncworker.sftp.localfile import LocalFile


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.promise("fetched-file-is-complete")
def test_appears_whole_under_its_name_with_time_and_mode(tmp_path: Path) -> None:
    goal = tmp_path / "a.xml"
    goal.write_bytes(b"old")
    file = LocalFile(str(goal), 0o104750)
    file.write([(3, b"def"), (0, b"abc")])
    assert goal.read_bytes() == b"old"
    file.commit(1_000_000)
    assert goal.read_bytes() == b"abcdef"
    assert goal.stat().st_mtime == 1_000_000
    assert stat.S_IMODE(goal.stat().st_mode) & ~0o750 == 0  # no set-user-id, and the umask applies
    assert names_in(tmp_path) == ["a.xml"]


def test_leaves_nothing_when_discarded(tmp_path: Path) -> None:
    file = LocalFile(str(tmp_path / "a"))
    file.write([(0, b"abc")])
    file.discard()
    file.discard()
    assert names_in(tmp_path) == []


def test_a_name_of_the_longest_kind_has_room_for_the_temporary_one(tmp_path: Path) -> None:
    for name in ("ü" * 127, "x" * 255):
        LocalFile(str(tmp_path / name)).commit(None)
        assert (tmp_path / name).exists()


def test_errors_name_the_goal(tmp_path: Path) -> None:
    goal = str(tmp_path / "missing" / "a")
    with pytest.raises(FileNotFoundError) as missing:
        LocalFile(goal)
    assert missing.value.filename == goal
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(IsADirectoryError) as is_folder:
        LocalFile(str(folder)).commit(None)
    assert is_folder.value.filename == str(folder)
    assert names_in(tmp_path) == ["folder"]


def test_a_full_disk_names_the_goal(tmp_path: Path) -> None:
    file = LocalFile(str(tmp_path / "a"))
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, file._fd)
    os.close(full)
    with pytest.raises(OSError, match="No space left") as caught:
        file.write([(0, b"abc")])
    assert caught.value.filename == str(tmp_path / "a")
    file.discard()
    assert names_in(tmp_path) == []
