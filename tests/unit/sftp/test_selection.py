"""Which files are wanted, and what is there already."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncworker.sftp.selection import Selection, is_there, split_glob


@pytest.mark.parametrize(
    ("pattern", "met", "not_met"),
    [
        ("*.xml", ["a.xml", "b/c/a.xml", ".a.xml"], ["a.txt", "xml"]),
        ("/*.xml", ["a.xml"], ["b/a.xml"]),
        ("b/*.xml", ["b/a.xml", "c/b/a.xml"], ["a.xml", "b/c/a.xml"]),
        ("/b/*.xml", ["b/a.xml"], ["c/b/a.xml"]),
        ("b/**", ["b/a", "b/c/d"], ["c/b"]),
        ("**/b/*", ["b/a", "c/b/a"], ["b", "c/b/d/a"]),
        ("a.{xml,txt}", ["a.xml", "d/a.txt"], ["a.md"]),
        ("[ab]?", ["a1", "b/b2"], ["c1", "a12"]),
        ("!x", ["!x"], ["x"]),
    ],
)
def test_patterns(pattern: str, met: list[str], not_met: list[str]) -> None:
    include, exclude = Selection(include=pattern), Selection(exclude=pattern)
    for path in met:
        assert include.wants(path, 1)
        assert not exclude.wants(path, 1)
        assert not exclude.enters(path)
    for path in not_met:
        assert not include.wants(path, 1)
        assert exclude.wants(path, 1)


@given(st.integers(0, 50), st.integers(0, 50), st.none() | st.integers(0, 50))
def test_sizes(size: int, least: int, most: int | None) -> None:
    wanted = Selection(min_size_bytes=least, max_size_bytes=most).wants("a", size)
    assert wanted is (least <= size and (most is None or size <= most))


@given(st.text(alphabet="ab/*?[{", max_size=12))
def test_a_pattern_is_split_where_no_folder_has_one_in_it(path: str) -> None:
    split = split_glob(path)
    if split is None:
        assert not set("*?[{") & set(path)
    else:
        folder, pattern = split
        assert not set("*?[{") & set(folder)
        assert set("*?[{") & set(pattern)
        assert path.endswith(pattern.lstrip("/"))


def test_what_is_not_known_is_never_taken_for_the_same() -> None:
    for skip in ("same", "size", "newer"):
        assert not is_there(skip, None, None, 1, 1)
        assert not is_there(skip, 1, 1, None, None)
    assert not is_there("same", 1, None, 1, None)
