"""``asyncworker sftp``, as a user calls it."""

from __future__ import annotations

import json
import os
import pty
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from asyncworker.cli import main
from tests.servers.command import ROOT
from tests.servers.proxy import running_proxy
from tests.servers.sftp import PASSWORD, running_sftp_server
from tests.servers.sshd import Sshd, running_sshd


def asyncworker(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, which spares seconds of imports; the bar is tested in one of its own."""
    done = CliRunner().invoke(main, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def url(sshd: Sshd) -> str:
    return f"sftp://{sshd.username}@127.0.0.1:{sshd.port}"


@pytest.fixture
def login(sshd: Sshd) -> list[str]:
    return ["-i", str(sshd.client_key), "--known-hosts", str(sshd.known_hosts)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.xml", "b.xml", "c.txt", "sub/d.xml", "odd ?#%25\x1b[1m.xml"):
        (folder / name.replace("\x1b[1m", "")).write_text(name)
    return folder


def test_get_a_folder_and_again(url: str, login: list[str], source: Path, tmp_path: Path) -> None:
    done = asyncworker("sftp", "get", f"{url}{source}", str(tmp_path / "in"), *login)
    assert done.returncode == 0, done.stderr
    assert "5 of 5 files" in done.stderr
    assert done.stdout == ""
    names = {str(path.relative_to(source)) for path in source.rglob("*")}
    assert {str(path.relative_to(tmp_path / "in")) for path in (tmp_path / "in").rglob("*")} == names
    again = asyncworker("sftp", "get", f"{url}{source}", str(tmp_path / "in"), *login, "--json")
    summary = json.loads(again.stdout)
    assert (summary["files_done"], summary["files_skipped"], summary["ok"]) == (0, 5, True)


def test_patterns_and_a_trial(url: str, login: list[str], source: Path, tmp_path: Path) -> None:
    goal = tmp_path / "in"
    options = ["--include", "*.xml", "--exclude", "sub", *login]
    trial = asyncworker("sftp", "get", f"{url}{source}", str(goal), "--dry-run", *options)
    assert trial.returncode == 0, trial.stderr
    assert str(source / "a.xml") in trial.stdout
    assert "3 files" in trial.stdout
    assert not goal.exists()
    done = asyncworker("sftp", "get", f"{url}{source}/*.txt", str(goal), "--json", *login)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["remote"] for line in lines[:-1]] == [str(source / "c.txt")]
    assert lines[0]["size_bytes"] == 5
    assert lines[-1]["files_done"] == 1


def test_put_and_ls(url: str, login: list[str], source: Path, tmp_path: Path) -> None:
    done = asyncworker("sftp", "put", str(source), f"{url}{tmp_path}/out", "-q", *login)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "out" / "sub" / "d.xml").read_text() == "sub/d.xml"
    listed = asyncworker("sftp", "ls", "-R", f"{url}{tmp_path}/out", "--json", *login)
    entries = {entry["path"]: entry["size_bytes"] for entry in map(json.loads, listed.stdout.splitlines())}
    assert entries[f"{tmp_path}/out/a.xml"] == 5
    assert len(entries) == 6
    plain = asyncworker("sftp", "ls", "-l", f"{url}{tmp_path}/out/a.xml", *login)
    assert plain.stdout.split()[-1] == f"{tmp_path}/out/a.xml"
    assert plain.stdout.startswith("-rw")


def test_through_the_program_ssh(url: str, login: list[str], source: Path, tmp_path: Path) -> None:
    done = asyncworker(
        "sftp", "get", f"{url}{source}/a.xml", str(tmp_path / "a"), "--openssh", "--ssh-config", "/dev/null", *login
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a").read_text() == "a.xml"


def test_a_file_that_fails_is_named_and_the_exit_code_tells(
    url: str, login: list[str], source: Path, tmp_path: Path
) -> None:
    (tmp_path / "in" / "a.xml").mkdir(parents=True)
    done = asyncworker("sftp", "get", f"{url}{source}", str(tmp_path / "in"), *login)
    assert done.returncode == 23
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 1
    assert str(tmp_path / "in" / "a.xml") in failed[0]
    assert "1 failed" in done.stderr
    assert (tmp_path / "in" / "b.xml").exists()


WRONG = [
    (["ls", "sftp://127.0.0.1:1/"], 10, "127.0.0.1:1"),
    (["ls", "http://host/"], 2, "sftp://user@host:port/path"),
    (["ls", "sftp://u:secret@host/"], 2, "ASYNCWORKER_SFTP_PASSWORD"),
    (["ls", "sftp://host:port/"], 2, "port"),
    (["get", "sftp://host/", "--skip", "maybe"], 2, "maybe"),
    (["put", "/not/there", "sftp://host/"], 23, "/not/there"),
]


@pytest.mark.parametrize(("arguments", "code", "text"), WRONG, ids=[" ".join(arguments) for arguments, _, _ in WRONG])
def test_what_is_wrong_is_said_in_a_line(arguments: list[str], code: int, text: str) -> None:
    done = CliRunner().invoke(main, ["sftp", *arguments])
    assert done.exit_code == code
    assert text in done.output
    assert isinstance(done.exception, SystemExit)
    assert "secret" not in done.output


def test_a_password_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with running_sftp_server(tmp_path / "server") as server:
        where = f"sftp://{server.username}@127.0.0.1:{server.port}{tmp_path}/a"
        known = ["--known-hosts", str(server.known_hosts)]
        for password, code in ((PASSWORD, 0), ("not it at all", 10)):
            env = {"ASYNCWORKER_SFTP_PASSWORD": password}
            done = CliRunner().invoke(main, ["sftp", "get", where, str(tmp_path / "b"), *known], env=env)
            assert done.exit_code == code, done.output
            assert password not in done.output
    assert (tmp_path / "b").read_text() == "x"


@pytest.mark.parametrize("direction", ["get", "put"])
def test_killed_on_its_way_it_goes_on_the_next_time(sshd: Sshd, tmp_path: Path, direction: str) -> None:
    size = 96 * 1024 * 1024
    content = random.Random(1).randbytes(size)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "large").write_bytes(content)
    login = ["-i", str(sshd.client_key), "--host-key", sshd.known_hosts.read_text().partition(" ")[2].strip()]
    with running_proxy(sshd.port) as proxy:
        url = f"sftp://{sshd.username}@127.0.0.1:{proxy.port}{tmp_path}"
        where = [f"{url}/source", f"{tmp_path}/goal"] if direction == "get" else [f"{tmp_path}/source", f"{url}/goal"]

        def moved() -> int:
            return max(proxy.to_server, proxy.from_server)

        def enough() -> bool:
            if direction == "put":
                return moved() >= size * 3 // 4
            # Its mark, behind the last byte, says that the first third is whole.
            return any(part.stat().st_size > size for part in (tmp_path / "goal").glob(".*.part"))

        command = [sys.executable, "-c", "from asyncworker.cli import main; main()", "sftp", direction, *where, *login]
        with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
            while not enough():
                assert process.poll() is None, "it was through before it could be killed"
                time.sleep(0.001)
            proxy.partition()
            assert process.poll() is None
            process.kill()
        proxy.forget()
        before = moved()
        assert not (tmp_path / "goal" / "large").exists()
        done = asyncworker("sftp", direction, *where, *login)
        assert done.returncode == 0, done.stderr
        assert moved() - before < size * 0.8
    assert (tmp_path / "goal" / "large").read_bytes() == content
    assert [path.name for path in (tmp_path / "goal").iterdir()] == ["large"]


def test_a_bar_on_a_terminal(url: str, login: list[str], source: Path, tmp_path: Path) -> None:
    mine, its = pty.openpty()
    command = [sys.executable, "-c", "from asyncworker.cli import main; main()", "sftp", "get", f"{url}{source}"]
    with subprocess.Popen(
        [*command, str(tmp_path / "in"), *login],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=its,
    ) as process:
        os.close(its)
        shown = b""
        while True:
            try:
                data = os.read(mine, 65536)
            except OSError:  # it has closed its end
                break
            if not data:
                break
            shown += data
        process.wait(120)
    os.close(mine)
    assert process.returncode == 0, shown
    assert "━".encode() in shown
    assert b"5 of 5 files" in shown
