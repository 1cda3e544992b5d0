"""Servers of OpenSSH, asyncssh, paramiko and ProFTPD, a scripted one, and pools on them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from asyncworker.sftp import SFTPPool
from tests.servers.proftpd import running_proftpd
from tests.servers.proxy import Proxy
from tests.servers.sftp import SFTPServer, running_sftp_server
from tests.servers.sftp_hostile import Hostile, running_hostile_server
from tests.servers.sftp_paramiko import running_paramiko_server
from tests.servers.sshd import Sshd, running_sshd


@pytest.fixture(scope="session")
def _sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def sshd(_sshd: Sshd) -> Sshd:
    """An OpenSSH server, shared by all tests: do not kill its sessions, start one of your own for that."""
    return _sshd


@pytest.fixture
def own_sshd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sshd]:
    """An OpenSSH server for one test: ``@configured("MaxSessions 1", open_files=32)``."""
    config, open_files = getattr(request, "param", ((), None))
    with running_sshd(tmp_path / "sshd", *config, open_files=open_files) as server:
        yield server


def configured(*config: str, open_files: int | None = None) -> pytest.MarkDecorator:
    """Lines for the configuration of ``own_sshd``."""
    return pytest.mark.parametrize("own_sshd", [(config, open_files)], indirect=True, ids=["own"])


@pytest.fixture(scope="session")
def _asyncssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SFTPServer]:
    with running_sftp_server(tmp_path_factory.mktemp("asyncssh")) as server:
        yield server


@dataclass(frozen=True)
class ThroughSsh:
    """An OpenSSH server that is reached through the program ``ssh``."""

    server: Sshd

    def __getattr__(self, name: str) -> Any:
        return getattr(self.server, name)


def _named(request: pytest.FixtureRequest) -> Sshd | SFTPServer:
    found: Sshd | SFTPServer
    found = request.getfixturevalue("_asyncssh_server" if request.param == "asyncssh" else "_sshd")
    return ThroughSsh(found) if request.param == "through-ssh" else found  # type: ignore[arg-type,return-value]


@pytest.fixture(params=["openssh", "asyncssh"])
def server(request: pytest.FixtureRequest) -> Sshd | SFTPServer:
    """Each of the two, shared by all tests."""
    return _named(request)


@pytest.fixture(params=["openssh", "asyncssh", "through-ssh"])
def each_way(request: pytest.FixtureRequest) -> Sshd | SFTPServer:
    """The same two, and the first of them once more through the program ``ssh``, which takes longer to start."""
    return _named(request)


@pytest.fixture(scope="session")
def _paramiko_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SFTPServer]:
    with running_paramiko_server(tmp_path_factory.mktemp("paramiko")) as server:
        yield server


@pytest.fixture(scope="session")
def _proftpd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_proftpd(tmp_path_factory.mktemp("proftpd")) as server:
        yield server


@pytest.fixture
def proftpd(_proftpd: Sshd) -> Sshd:
    """ProFTPD's mod_sftp, shared by all tests."""
    return _proftpd


@pytest.fixture(params=["openssh", "asyncssh", "paramiko", "proftpd"])
def any_server(request: pytest.FixtureRequest) -> Sshd | SFTPServer:
    """Each of the four, shared by all tests; paramiko's is slow and knows no extension, proftpd's names no limits."""
    names = {
        "openssh": "_sshd",
        "asyncssh": "_asyncssh_server",
        "paramiko": "_paramiko_server",
        "proftpd": "_proftpd",
    }
    found: Sshd | SFTPServer = request.getfixturevalue(names[request.param])
    return found


#: ProFTPD answers READLINK with the absolute path that a link leads to, and renames what it leads to.
links_as_they_are = pytest.mark.parametrize("any_server", ["openssh", "asyncssh", "paramiko"], indirect=True)


def pool_of(server: Sshd | SFTPServer, **options: Any) -> SFTPPool:
    """A pool that logs in as the test's user."""
    login: dict[str, Any] = {
        "port": server.port,
        "username": server.username,
        "client_keys": server.client_key,
        "known_hosts": server.known_hosts,
    }
    if isinstance(server, ThroughSsh):
        login |= {"transport": "openssh", "ssh_config": "/dev/null"}
    return SFTPPool(server.host, **(login | options))


@contextlib.asynccontextmanager
async def pool_on(hostile: Hostile, folder: Path, **options: Any) -> AsyncIterator[SFTPPool]:
    """A pool on a scripted server that runs as long as the pool; ``folder`` takes the server's keys."""
    with running_hostile_server(folder, hostile) as server:
        async with pool_of(server, **options) as pool:
            yield pool


def behind(proxy: Proxy, server: Sshd | SFTPServer) -> dict[str, Any]:
    """Options that lead to the server by way of the proxy."""
    return {"port": proxy.port, "host_key": server.known_hosts.read_text().partition(" ")[2].strip()}


async def in_mid_run(job: asyncio.Task[Any], condition: Callable[[], object]) -> None:
    """Wait until the job has come so far; it must not be through by then: nothing could happen to it any more."""
    async with asyncio.timeout(120):
        while not condition():
            assert not job.done(), "it was through before anything could happen to it"
            await asyncio.sleep(0.001)
    assert not job.done(), "it was through before anything could happen to it"


def grown(paths: Iterable[Path], size: int) -> bool:
    """Whether one of those files is longer than that; any of them may vanish meanwhile."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > size:
                return True
    return False


@dataclass(frozen=True)
class Folders:
    """Where files come from and go to."""

    remote: Path
    local: Path

    def make(self, name: str, content: bytes) -> str:
        """Put a file on the server; returns its path there."""
        path = self.remote / name
        path.write_bytes(content)
        return str(path)

    def left(self) -> list[str]:
        """All that is in the local folder."""
        return sorted(path.name for path in self.local.iterdir())


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """An empty remote and an empty local folder."""
    made = Folders(tmp_path / "remote", tmp_path / "local")
    made.remote.mkdir()
    made.local.mkdir()
    return made


@pytest.fixture
async def sftp_pool(server: Sshd | SFTPServer) -> AsyncIterator[SFTPPool]:
    """A pool on ``server``."""
    async with pool_of(server) as pool:
        yield pool
