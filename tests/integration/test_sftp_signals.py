"""``asyncworker sftp`` and signals: it cleans up in bounded time, says what stays, and the next run puts it right."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asyncworker.sftp.temporary_names import is_ours
from tests.servers.command import ROOT
from tests.servers.proxy import running_proxy
from tests.servers.sshd import Sshd, running_sshd

NOISE = ("Traceback", "never retrieved", "Exception ignored", "was destroyed", "Error")


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


def login(sshd: Sshd, *, transport: str = "asyncssh") -> list[str]:
    options = ["-i", str(sshd.client_key), "--host-key", sshd.known_hosts.read_text().partition(" ")[2].strip()]
    return [*options, "--openssh", "--ssh-config", "/dev/null"] if transport == "openssh" else options


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "asyncworker", "sftp", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end_at = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, f"it was through before anything could happen to it: {process.communicate()}"
        assert time.monotonic() < end_at
        time.sleep(0.001)


def a_tree(folder: Path, count: int = 3000) -> dict[str, bytes]:
    chance = random.Random(5)
    files = {f"{number % 7}/{number:05}": chance.randbytes(chance.randrange(4000)) for number in range(count)}
    files["large"] = chance.randbytes(40_000_000)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return files


def names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def not_whole(folder: Path) -> list[str]:
    """What may stay of the large file is a part, which the next run goes on with; nothing may of others."""
    return [name for name in names(folder) if is_ours(Path(name).name) and not name.startswith(".large.")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("direction", "transport"), [("put", "asyncssh"), ("get", "asyncssh"), ("put", "openssh")])
@pytest.mark.promise("sftp-signals-clean-up")
def test_a_signal_ends_it_cleaned_up_and_without_noise(
    sshd: Sshd, tmp_path: Path, direction: str, transport: str, number: signal.Signals
) -> None:
    source, goal = tmp_path / "source", tmp_path / "goal"
    files = a_tree(source)
    url = f"sftp://{sshd.username}@127.0.0.1:{sshd.port}"
    where = [str(source), f"{url}{goal}"] if direction == "put" else [f"{url}{source}", str(goal)]
    with running(direction, *where, *login(sshd, transport=transport)) as process:
        wait_for(lambda: goal.exists() and len(names(goal)) > 300, process)
        process.send_signal(number)
        said = process.communicate(timeout=120)
    assert process.returncode == 128 + number, said
    assert not [noise for noise in NOISE if noise in "".join(said)], said
    assert not_whole(goal) == []
    assert len(names(goal)) < len(files)
    with running(direction, *where, *login(sshd, transport=transport)) as process:
        said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert {name: (goal / name).read_bytes() for name in names(goal)} == files


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once_and_names_what_stays(
    sshd: Sshd, tmp_path: Path, number: signal.Signals
) -> None:
    source, goal = tmp_path / "source", tmp_path / "goal"
    a_tree(source)
    with running_proxy(sshd.port) as proxy:
        url = f"sftp://{sshd.username}@127.0.0.1:{proxy.port}{goal}"
        with running("put", str(source), url, *login(sshd)) as process:
            wait_for(lambda: goal.exists() and len(not_whole(goal)) > 5, process)
            proxy.partition()
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            assert "again" in process.stderr.readline()
            process.send_signal(number)
            said = process.communicate(timeout=120)
        assert process.returncode == 128 + signal.SIGINT
        left = [str(goal / name) for name in not_whole(goal)]
        assert left
        assert any(path in said[1] for path in left), said
        assert not [noise for noise in NOISE if noise in "".join(said)], said


def test_a_second_signal_removes_what_is_not_whole_here(sshd: Sshd, tmp_path: Path) -> None:
    source, goal = tmp_path / "source", tmp_path / "goal"
    a_tree(source)
    with running_proxy(sshd.port) as proxy:
        url = f"sftp://{sshd.username}@127.0.0.1:{proxy.port}{source}"
        with running("get", url, str(goal), *login(sshd)) as process:
            wait_for(lambda: goal.exists() and len(names(goal)) > 300, process)
            proxy.partition()
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            process.stderr.readline()
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT
    assert not_whole(goal) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_it_connects_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    with running_proxy(1) as proxy:
        proxy.partition()  # it takes connections, and never says a word
        with running("ls", f"sftp://127.0.0.1:{proxy.port}/", "--host-key", "SHA256:none") as process:
            wait_for(lambda: proxy._connections, process)
            process.send_signal(number)
            said = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert not [noise for noise in NOISE if noise in "".join(said)], said


@pytest.mark.parametrize(
    "command", [["ls", "-R"], ["ls", "-R", "--json"], ["get", "--json"], ["get", "--dry-run"], ["stat"]]
)
def test_a_reader_that_has_enough_ends_it_without_a_word(sshd: Sshd, tmp_path: Path, command: list[str]) -> None:
    for number in range(4000):
        (tmp_path / "in" / f"{number % 20}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / f"{number % 20}" / f"{number:05}").write_text("x")
    url = f"sftp://{sshd.username}@127.0.0.1:{sshd.port}{tmp_path}/in"
    where = [f"{url}/*/*"] if command[0] == "stat" else [url]
    where += [str(tmp_path / "goal")] if command[0] == "get" else []
    name, *options = command
    with running(name, *where, *options, *login(sshd)) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        process.wait(120)
    assert (process.returncode, said) == (128 + signal.SIGPIPE, "")


def test_every_command_of_sftp_can_be_interrupted() -> None:
    sources = [path.read_text() for path in (ROOT / "asyncworker" / "cli" / "sftp").glob("*.py")]
    assert any("run_async(" in source for source in sources)
    assert not [source for source in sources if "asyncio.run(" in source]
