"""``put - URL``, ``get URL -`` and ``cat`` between programs, as in a shell's pipe."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from asyncworker.cli import main
from tests.servers.command import ROOT
from tests.servers.sshd import Sshd, running_sshd

CONTENT = random.Random(1).randbytes(20 * 1024 * 1024 + 17)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def url(sshd: Sshd) -> str:
    return f"sftp://{sshd.username}@127.0.0.1:{sshd.port}"


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(sshd: Sshd) -> Start:
    login = ["-i", str(sshd.client_key), "--known-hosts", str(sshd.known_hosts)]

    def run(*arguments: str, **pipes: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "asyncworker", "sftp", *arguments, *login]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | pipes
        return subprocess.Popen(command, env=environment, **pipes)

    return run


def until(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_standard_input_becomes_a_file(start: Start, url: str, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"old")
    with start("put", "-", f"{url}{tmp_path}/large", "--json") as process:
        out, err = process.communicate(CONTENT, 120)
    assert (process.returncode, err) == (0, b"")
    assert json.loads(out)["size_bytes"] == len(CONTENT)
    assert (tmp_path / "large").read_bytes() == CONTENT
    with start("put", "-", f"{url}{tmp_path}/empty", stdin=subprocess.DEVNULL) as process:
        assert process.communicate(timeout=120) == (b"", b"")
    with start("put", "-", f"{url}{tmp_path}/empty", "--inplace", stdin=subprocess.DEVNULL) as process:
        assert process.communicate(timeout=120) == (b"", b"")
    with (tmp_path / "large").open("rb") as file, start("put", "-", f"{url}{tmp_path}/copy", stdin=file) as process:
        assert process.communicate(timeout=120) == (b"", b"")
    assert (tmp_path / "copy").read_bytes() == CONTENT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "empty", "large"]
    assert (tmp_path / "empty").read_bytes() == b""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.promise("sftp-stream-is-whole-or-not-there")
def test_a_file_is_there_only_once_its_input_has_ended(
    start: Start, url: str, tmp_path: Path, how: signal.Signals
) -> None:
    goal = tmp_path / "out"
    goal.mkdir()

    def arrived() -> bool:
        return any(path.stat().st_size == 1_000_000 for path in goal.iterdir())

    with start("put", "-", f"{url}{goal}/a") as process:
        assert process.stdin is not None
        process.stdin.write(bytes(1_000_000))
        process.stdin.flush()
        until(arrived, process)
        assert not (goal / "a").exists()
        process.stdin.close()
        assert process.wait(120) == 0
    assert (goal / "a").read_bytes() == bytes(1_000_000)
    with start("put", "-", f"{url}{goal}/b") as process:
        assert process.stdin is not None
        process.stdin.write(bytes(1_000_000))
        process.stdin.flush()
        until(lambda: len(list(goal.iterdir())) == 2, process)
        process.send_signal(how)
        process.wait(120)  # though its input has not ended
        assert process.returncode != 0
    assert [path.name for path in goal.iterdir()] == ["a"]


@pytest.mark.parametrize("command", [["get"], ["cat"]])
def test_files_go_to_standard_output(start: Start, url: str, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.bin").write_bytes(CONTENT)
    (tmp_path / "in" / "b.bin").write_bytes(b"\x00\xff\r\n")
    to = ["-"] if command == ["get"] else []
    with start(*command, f"{url}{tmp_path}/in/*.bin", *to, cwd=tmp_path) as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, b"")
    assert out == CONTENT + b"\x00\xff\r\n"
    assert [path.name for path in tmp_path.iterdir()] == ["in"]  # no file named -


def test_a_reader_that_has_enough_ends_it_without_a_word(start: Start, url: str, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(CONTENT)
    with start("get", f"{url}{tmp_path}/large", "-") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10) == CONTENT[:10]
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(120)


def test_what_fails_is_said_and_the_rest_follows(start: Start, url: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    with start("cat", f"{url}{tmp_path}/missing", f"{url}{tmp_path}", f"{url}{tmp_path}/a") as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, b"a")
    missing, folder = err.decode().splitlines()
    assert "no such file" in missing
    assert "is a folder" in folder
    for goal in ("missing/b", ""):
        with start("put", "-", f"{url}{tmp_path}/{goal}".rstrip("/")) as process:
            _, err = process.communicate(b"x", 120)
        assert process.returncode == 1
        assert str(tmp_path) in err.decode()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["get", "sftp://h/a", "-", "--json"], "--json has no meaning"),
        (["get", "sftp://h/a", "-", "--include", "*.xml"], "--include has no meaning"),
        (["get", "sftp://h/a", "-", "--dry-run"], "--dry-run has no meaning"),
        (["put", "-", "sftp://h/a", "--exclude", "x"], "--exclude has no meaning"),
        (["put", "-", "sftp://h/a/"], "needs the path of a file"),
        (["cat", "sftp://h/a", "--json"], "--json has no meaning"),
    ],
)
def test_options_that_mean_nothing_for_a_stream_are_refused(arguments: list[str], text: str) -> None:
    done = CliRunner().invoke(main, ["sftp", *arguments])
    assert (done.exit_code, text in done.stderr) == (2, True), done.output


def closing(*numbers: int) -> Callable[[], None]:
    """What a shell does for ``<&-`` and ``>&-``, in the child."""

    def close() -> None:
        for number in numbers:
            os.close(number)

    return close


def test_streams_that_are_closed_are_not_taken_for_a_file_or_a_connection(
    start: Start, url: str, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"a")
    none: dict[str, Any] = {"stdin": None, "stdout": None}
    with start("get", f"{url}{tmp_path}/in/a", "-", **none, preexec_fn=closing(1)) as process:
        assert b"standard output: Bad file descriptor" in process.communicate(timeout=120)[1]
    assert process.returncode == 1
    with start("put", "-", f"{url}{tmp_path}/in/b", **none, preexec_fn=closing(0)) as process:
        assert b"standard input: Bad file descriptor" in process.communicate(timeout=120)[1]
    assert process.returncode == 1
    with start("ls", f"{url}{tmp_path}/in", **none, preexec_fn=closing(1)) as process:
        assert process.communicate(timeout=120)[1] == b""
    assert process.returncode == 0
    none["stderr"] = None
    with start("get", f"{url}{tmp_path}/in", str(tmp_path / "out"), **none, preexec_fn=closing(0, 1, 2)) as process:
        assert process.wait(120) == 0
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a"]
    assert (tmp_path / "out" / "a").read_bytes() == b"a"
