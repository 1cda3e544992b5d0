"""Names from a server that means harm."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncworker.errors import SFTPNameError
from asyncworker.sftp import check_name, local_path
from asyncworker.sftp.names import remote_bytes

HOSTILE = [
    b"",
    b".",
    b"..",
    b"../etc/passwd",
    b"/etc/passwd",
    b"a/b",
    b"a\\b",
    b"a\0b",
    b"a\nb",
    b"\x1b[2J",
    b"\x7f",
    b"x" * 256,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused(name: bytes) -> None:
    with pytest.raises(SFTPNameError) as caught:
        check_name(name, host="host:22", folder="/in")
    assert caught.value.host == "host:22"
    assert "/in" in str(caught.value)
    assert str(caught.value).isprintable()  # it ends in a log, or on a terminal


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_for_the_server_alone_must_only_be_one_component(name: bytes) -> None:
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        with pytest.raises(SFTPNameError):
            check_name(name, local=False)
    else:
        assert remote_bytes(check_name(name, local=False)) == name


@pytest.mark.parametrize("name", [b"a.xml", b"...", b".hidden", b" ", b"-rf", b"x" * 255, "grün".encode(), b"\xff\xfe"])
def test_an_unusual_name_is_kept(name: bytes) -> None:
    assert remote_bytes(check_name(name)) == name


@given(st.binary(max_size=300))
def test_a_name_is_refused_or_names_a_file_in_the_folder_and_leads_back(raw: bytes) -> None:
    try:
        name = check_name(raw)
    except SFTPNameError:
        return
    assert remote_bytes(name) == raw
    path = Path("/folder") / name
    assert path.parent == Path("/folder")
    assert path.name == name


def test_local_path_takes_the_last_component_only() -> None:
    assert local_path("/data", "/in/sub/a.xml") == Path("/data/a.xml")
    with pytest.raises(SFTPNameError):
        local_path("/data", "/in/..")


@pytest.mark.parametrize("path", ["/a\0b", "/\ud800"])
def test_a_path_that_no_server_would_understand_is_refused(path: str) -> None:
    with pytest.raises(SFTPNameError):
        remote_bytes(path)
