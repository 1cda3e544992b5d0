"""Targets of links that may be kept: none that leads out of the tree, by whatever way."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncworker.errors import SFTPNameError
from asyncworker.sftp.links import check_target

KEPT = [
    ("l", "a"),
    ("l", "./a"),
    ("l", "sub/a"),
    ("l", "."),
    ("l", "sub//a/"),
    ("sub/l", "../a"),
    ("a/b/l", "../../c/d"),
]
REFUSED = [
    ("l", ""),
    ("l", "/etc/passwd"),
    ("l", "//a"),
    ("l", ".."),
    ("l", "../a"),
    ("l", "sub/../../a"),
    ("sub/l", "../../a"),
    ("sub/l", "x/../a"),  # x may be a link to somewhere higher
    ("sub/l", "./../../a"),
    ("l", "new\nline"),
    ("l", "\x1b[2J"),
    ("l", "back\\slash"),
    ("l", "x" * 256),
]


@pytest.mark.parametrize(("path", "target"), KEPT)
def test_a_link_within_the_tree_is_kept(path: str, target: str) -> None:
    check_target(target, path, "host")


@pytest.mark.parametrize(("path", "target"), REFUSED)
def test_a_link_that_may_lead_out_is_refused(path: str, target: str) -> None:
    with pytest.raises(SFTPNameError, match="refused the link") as caught:
        check_target(target, path, "host")
    assert str(caught.value).isprintable()


names = st.sampled_from(["..", ".", "a", "b", "c"])


@given(
    st.dictionaries(st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join), st.lists(names), max_size=6)
)
def test_whatever_links_are_kept_together_none_leads_out(links: dict[str, list[str]]) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder, "root").resolve()
        root.mkdir()
        for path, parts in links.items():
            target = "/".join(parts)
            try:
                check_target(target, path, "host")
                # As a download makes it: through folders only, never through a link.
                above = root
                for name in path.split("/")[:-1]:
                    above /= name
                    above.mkdir(exist_ok=True)
                    if above.is_symlink():
                        raise NotADirectoryError
                (root / path).symlink_to(target)
            except (SFTPNameError, OSError):
                continue
        for path in root.rglob("*"):
            try:
                assert os.path.commonpath([root, path.resolve(strict=False)]) == str(root)
            except (OSError, RuntimeError):  # links that lead to each other
                continue
