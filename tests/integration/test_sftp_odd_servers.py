"""``asyncworker sftp ls | get`` on servers that tell little of their files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_sftp_commands_on_the_server import Command, lines
from tests.servers.sftp_hostile import (
    PERMISSION_DENIED,
    UNSUPPORTED,
    Hostile,
    claim_size,
    running_hostile_server,
    without_attributes,
    without_type_bits,
)

NO_STAT = {"STAT": UNSUPPORTED, "LSTAT": UNSUPPORTED}


@pytest.fixture
def hostile() -> Hostile:
    made = Hostile()
    for name in ("a", "sub/b", "sub/deep/c"):
        made.tree.write(f"/in/{name}", b"content")
    return made


@pytest.fixture
def run(hostile: Hostile, tmp_path: Path) -> Iterator[Command]:
    with running_hostile_server(tmp_path / "server", hostile) as server:
        yield Command(server)


@pytest.mark.parametrize(
    "switches",
    [
        {"refuse": NO_STAT},
        {"claim": without_attributes("READDIR")},
        {"claim": without_type_bits("READDIR")},
        {"claim": without_type_bits("READDIR", "STAT")},
    ],
)
def test_ls_lists_all_folders(hostile: Hostile, run: Command, switches: dict[str, Any]) -> None:
    for name, value in switches.items():
        setattr(hostile, name, value)
    found = lines(run("ls", "-R", Path("/in")))
    assert sorted(found) == ["a", "sub", "sub/b", "sub/deep", "sub/deep/c"]


def test_ls_says_what_may_be_a_folder(hostile: Hostile, run: Command) -> None:
    hostile.claim = without_attributes("READDIR")
    hostile.refuse = {"LSTAT": PERMISSION_DENIED}
    done = run("ls", "-R", Path("/in"), code=1)
    assert sorted(lines(done)) == ["a", "sub"]
    assert "it is unknown whether /in/sub is a file or a folder: LSTAT: permission denied" in done.stderr


def test_get_names_what_stays_unknown_and_exits_with_23(hostile: Hostile, run: Command, tmp_path: Path) -> None:
    hostile.claim = without_attributes("READDIR")
    hostile.refuse = {"LSTAT": PERMISSION_DENIED}
    done = run("get", Path("/in"), str(tmp_path / "got"), code=23)
    assert "it is unknown whether /in/sub is a file or a folder" in done.stderr


@pytest.mark.parametrize(("read_to", "code"), [("size", 23), ("eof", 0)])
def test_get_takes_files_whose_sizes_are_wrong_if_it_is_told_to(
    hostile: Hostile, run: Command, tmp_path: Path, read_to: str, code: int
) -> None:
    hostile.claim = claim_size(lambda size: size - 1, "STAT", "LSTAT", "FSTAT", "READDIR")
    done = run("get", "--read-to", read_to, "--json", Path("/in"), str(tmp_path / "got"), code=code)
    assert json.loads(lines(done)[-1])["files_done"] == (3 if code == 0 else 0)
    if code == 0:
        assert (tmp_path / "got/sub/deep/c").read_bytes() == b"content"
    else:
        assert "6 bytes were announced, more follow" in done.stdout


def test_get_opens_each_file_once_if_it_is_told_to(hostile: Hostile, run: Command, tmp_path: Path) -> None:
    hostile.one_time_reads = True
    run("get", "--read-once", Path("/in"), str(tmp_path / "got"))
    assert hostile.count("OPEN") == 3
    assert hostile.tree.files() == {}


def test_mv_into_a_folder_of_which_nothing_is_told(hostile: Hostile, run: Command) -> None:
    hostile.refuse = {"STAT": PERMISSION_DENIED}
    run("mv", Path("/in/a"), Path("/in/sub"))
    assert set(hostile.tree.files()) == {"/in/sub/a", "/in/sub/b", "/in/sub/deep/c"}
