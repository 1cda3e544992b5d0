"""Options of ``asyncworker sftp get | put | sync``: each has the effect that its help says."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_sftp_commands_on_the_server import Command, lines
from tests.servers.sftp_hostile import Hostile, running_hostile_server
from tests.servers.sshd import running_sshd

HOUR_S = 3600


@pytest.fixture
def hostile() -> Hostile:
    return Hostile()


@pytest.fixture
def run(hostile: Hostile, tmp_path: Path) -> Iterator[Command]:
    with running_hostile_server(tmp_path / "server", hostile) as server:
        yield Command(server)


def moved(
    run: Command, direction: str, hostile: Hostile, files: dict[str, float], folder: Path, *options: str
) -> set[str]:
    """Move files of those ages, in hours, with options; returns the names that have arrived."""
    for name, hours in files.items():
        at = int(time.time() - hours * HOUR_S)
        if direction == "get":
            hostile.tree.write(f"/in/{name}", name.encode(), mtime=at)
        else:
            (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "in" / name).write_text(name)
            os.utime(folder / "in" / name, (at, at))
    if direction == "get":
        run("get", Path("/in"), str(folder / "to"), *options)
        return {str(path.relative_to(folder / "to")) for path in (folder / "to").rglob("*") if path.is_file()}
    run("put", str(folder / "in"), Path("/to"), *options)
    return {path.removeprefix("/to/") for path in hostile.tree.files("/to")}


AGES = {"one": 1.0, "three": 3.0, "five": 5.0, "sub/one": 1.0}
CHOICES = [
    (["--newer-than", "4h"], {"one", "three", "sub/one"}),
    (["--older-than", "2h"], {"three", "five"}),
    (["--newer-than", "4h", "--older-than", "1h30m"], {"three"}),
    (["--no-recursive"], {"one", "three", "five"}),
    (["--max-depth", "0"], {"one", "three", "five"}),
    (["--filter-from", "{rules}"], {"five", "three"}),
    (["--min-size", "4", "--max-size", "6"], {"five", "three"}),
    (["-j", "1"], set(AGES)),
    (["--connections", "1"], set(AGES)),
]


@pytest.mark.parametrize("direction", ["get", "put"])
@pytest.mark.parametrize(("options", "wanted"), CHOICES, ids=[" ".join(options) for options, _ in CHOICES])
def test_which_files_are_moved(
    hostile: Hostile, run: Command, tmp_path: Path, direction: str, options: list[str], wanted: set[str]
) -> None:
    (tmp_path / "rules").write_text("# a comment\n- sub/\n- one\n")
    options = [option.format(rules=tmp_path / "rules") for option in options]
    assert moved(run, direction, hostile, AGES, tmp_path, *options) == wanted


@pytest.mark.parametrize(
    ("options", "done"),
    [
        ([], {"a", "b", "c"}),
        (["--skip", "size"], {"c"}),
        (["--skip", "newer"], {"b"}),
        (["--skip", "never"], {"a", "b", "c"}),
        (["--checksum"], {"b", "c"}),
        (["-c"], {"b", "c"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
@pytest.mark.parametrize("direction", ["get", "put"])
def test_which_of_those_that_are_there_are_moved(
    hostile: Hostile, run: Command, tmp_path: Path, direction: str, options: list[str], done: set[str]
) -> None:
    """Compare three files: ``a`` differs in time, ``b`` in time and contents (ours is older), ``c`` in everything."""
    source = {"a": (b"same", 100), "b": (b"new", 300), "c": (b"longer", 100)}
    goal = {"a": (b"same", 200), "b": (b"old", 200), "c": (b"x", 200)}
    there, here = (source, goal) if direction == "get" else (goal, source)
    (tmp_path / "f").mkdir()
    for name in "abc":
        hostile.tree.write(f"/f/{name}", there[name][0], mtime=there[name][1])
        (tmp_path / "f" / name).write_bytes(here[name][0])
        os.utime(tmp_path / "f" / name, (here[name][1],) * 2)
    where: list[Any] = [Path("/f"), str(tmp_path / "f")]
    found = run(direction, *(where if direction == "get" else where[::-1]), *options, "--json")
    objects = [json.loads(line) for line in lines(found)]
    assert {one["remote"].rpartition("/")[2] for one in objects if one.get("outcome") == "moved"} == done
    for name in done:
        assert hostile.tree.read(f"/f/{name}") == (tmp_path / "f" / name).read_bytes() == source[name][0]


@pytest.mark.parametrize(("options", "kept"), [([], True), (["-O"], False), (["--omit-dir-times"], False)])
def test_times_of_folders(hostile: Hostile, run: Command, tmp_path: Path, options: list[str], kept: bool) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "a").touch()
    os.utime(tmp_path / "in" / "sub", (1.2e9, 1.2e9))
    run("put", str(tmp_path / "in"), Path("/to"), *options)
    assert (hostile.tree.node("/to/sub").mtime == 1_200_000_000) == kept


def test_fsync(hostile: Hostile, run: Command, tmp_path: Path) -> None:
    moved(run, "put", hostile, AGES, tmp_path)
    assert hostile.count("fsync") == 0
    run("put", str(tmp_path / "in"), Path("/again"), "--fsync")
    assert hostile.count("fsync") >= len(AGES)


def test_no_space_check(hostile: Hostile, run: Command, tmp_path: Path) -> None:
    hostile.statvfs = (4096, 4096, 1 << 20, 0, 0)
    hostile.tree.mkdir("/to")
    (tmp_path / "a").write_bytes(b"content")
    run("put", str(tmp_path / "a"), Path("/to/a"), code=11)
    run("put", str(tmp_path / "a"), Path("/to/a"), "--no-space-check")
    assert hostile.tree.read("/to/a") == b"content"


@pytest.mark.parametrize(("options", "failed"), [([], 40), (["--max-errors", "2"], 3), (["--fail-fast"], 1)])
def test_so_many_failures(hostile: Hostile, run: Command, tmp_path: Path, options: list[str], failed: int) -> None:
    for number in range(40):
        hostile.tree.write(f"/in/{number}", b"x")
        (tmp_path / "to" / f"{number}").mkdir(parents=True)
    done = run("get", Path("/in"), str(tmp_path / "to"), "-j", "1", "--json", *options, code=23)
    assert json.loads(lines(done)[-1])["files_failed"] == failed


# -- how much is asked of the server -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "most"), [(["--in-flight", "1"], 1), (["--in-flight", "3"], 3), (["--gentle"], 4)], ids=str
)
def test_requests_in_the_air(hostile: Hostile, run: Command, tmp_path: Path, options: list[str], most: int) -> None:
    hostile.delay_s = 0.001
    files = {f"{number}": 1.0 for number in range(30)}
    assert moved(run, "get", hostile, files, tmp_path, *options) == set(files)
    assert hostile.most_in_air <= most
    if "--gentle" in options:
        assert len(hostile.sessions) == 1


def test_window_bytes(hostile: Hostile, run: Command, tmp_path: Path) -> None:
    hostile.tree.write("/in/a", bytes(300_000))
    run("get", Path("/in"), str(tmp_path / "to"), "--window-bytes", "20K", "--connections", "1")
    run("put", str(tmp_path / "to"), Path("/out"), "--window-bytes", "20K", "--connections", "1")
    assert max(request.length for request in hostile.of("READ", "WRITE")) <= 20 * 1024
    assert hostile.tree.read("/out/a") == bytes(300_000)


def test_time_limits(hostile: Hostile, run: Command, tmp_path: Path) -> None:
    hostile.tree.write("/in/a", b"content")
    hostile.hang = ("READ",)
    done = run("get", Path("/in"), str(tmp_path / "to"), "--timeout", "1", "--retries", "0", code=12)
    assert "1 s" in done.stderr
    hostile.hang = True
    done = run("get", Path("/in"), str(tmp_path / "to"), "--connect-timeout", "1", code=10)
    assert "within 1 s" in done.stderr


@pytest.mark.parametrize("direction", ["get", "put"])
@pytest.mark.parametrize(("retries", "code"), [("0", 12), ("5", 0)])
def test_retries(hostile: Hostile, run: Command, tmp_path: Path, direction: str, retries: str, code: int) -> None:
    hostile.tree.write("/in/a", b"content")
    (tmp_path / "a").write_bytes(b"content")
    hostile.bad_sessions = None if code else 3
    hostile.hang_up_if = lambda request: request.kind in ("READ", "WRITE")
    where = [Path("/in/a"), str(tmp_path / "got")] if direction == "get" else [str(tmp_path / "a"), Path("/out")]
    run(direction, *where, "--retries", retries, "--connections", "1", code=code)
    arrived = (tmp_path / "got").exists() if direction == "get" else hostile.tree.exists("/out")
    assert arrived == (code == 0)


def test_hosts_on_the_way_and_compression(hostile: Hostile, run: Command, tmp_path: Path) -> None:
    hostile.tree.write("/in/a", b"content")
    with running_sshd(tmp_path / "gate") as gate:
        known = tmp_path / "known"
        known.write_text(
            gate.known_hosts.read_text() + Path(run.login[run.login.index("--known-hosts") + 1]).read_text()
        )
        run.login = [*run.login[:2], "-i", str(gate.client_key), "--known-hosts", str(known)]
        jump = f"{gate.username}@{gate.host}:{gate.port}"
        run("get", Path("/in/a"), str(tmp_path / "a"), "--jump", jump, "--compress")
        assert "Accepted publickey" in gate.log()
    assert (tmp_path / "a").read_bytes() == b"content"


# -- mirrors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "left"),
    [
        (["--delete"], 25, {"keep.tmp", "old"}),
        (["--delete", "--force"], 0, set()),
        (["--delete", "--force", "--exclude", "*.tmp"], 0, {"keep.tmp"}),
        (["--delete", "--force", "--exclude", "*.tmp", "--delete-excluded"], 0, set()),
        (["--delete", "--force", "--dry-run"], 0, {"keep.tmp", "old"}),
        (["--delete", "--force", "--max-delete", "1"], 25, {"keep.tmp", "old"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
@pytest.mark.parametrize("direction", ["down", "up"])
def test_an_empty_source(
    hostile: Hostile, run: Command, tmp_path: Path, direction: str, options: list[str], code: int, left: set[str]
) -> None:
    hostile.tree.mkdir("/f")
    (tmp_path / "f").mkdir()
    for name in ("keep.tmp", "old"):
        if direction == "down":
            (tmp_path / "f" / name).touch()
        else:
            hostile.tree.write(f"/f/{name}", b"x")
    where: list[Any] = [Path("/f"), str(tmp_path / "f")]
    run("sync", *(where if direction == "down" else where[::-1]), *options, code=code)
    here = {path.name for path in (tmp_path / "f").iterdir()}
    assert (here if direction == "down" else {path.removeprefix("/f/") for path in hostile.tree.files("/f")}) == left
