"""The columns of the table: kinds of servers, each on a free port."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.servers.proftpd import running_proftpd
from tests.servers.sftp import SFTPServer, running_sftp_server
from tests.servers.sftp_hostile import Hostile, running_hostile_server
from tests.servers.sftp_paramiko import running_paramiko_server
from tests.servers.sshd import Sshd, running_sshd
from tests.sftp_matrix.ground import Disk, Far, InMemory

__all__ = ["SERVERS", "TRANSPORTS", "Running", "running"]

SERVERS = ("openssh", "asyncssh", "paramiko", "proftpd", "scripted")
TRANSPORTS = ("asyncssh", "openssh")

#: A server, and what makes the folder of one operation on it.
Running = tuple[Sshd | SFTPServer, Callable[[str], Far]]


@contextlib.contextmanager
def running(kind: str, folder: Path) -> Iterator[Running]:
    """Start a server of that kind; ``folder`` takes its files."""
    data = folder / "data"
    data.mkdir(parents=True)

    def on_disk(name: str) -> Far:
        (data / name).mkdir()
        return Disk(data / name)

    if kind == "scripted":
        hostile = Hostile()
        with running_hostile_server(folder / "server", hostile) as server:
            yield server, lambda name: InMemory(hostile.tree, f"/{name}")
        return
    start = {
        "openssh": running_sshd,
        "asyncssh": running_sftp_server,
        "paramiko": running_paramiko_server,
        "proftpd": running_proftpd,
    }[kind]
    with start(folder / "server") as found:
        yield found, on_disk
