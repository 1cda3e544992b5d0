"""A real OpenSSH server: a plain process with a configuration, host key and authorized key of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import psutil

from asyncworker.cli.processes import Child
from tests.servers import MissingServer

__all__ = ["Sshd", "running_sshd"]

_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/sbin", "/opt/homebrew/sbin")
_STARTED = "Server listening on"
_PORTS_TO_TRY = 5

#: Nothing of the machine's own configuration, accounts database or login scripts plays a part.
_CONFIG = """\
Port {port}
ListenAddress {host}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
LogLevel INFO
"""
_SUBSYSTEM = "Subsystem sftp internal-sftp"


@dataclass(frozen=True)
class Sshd:
    """Where it is, how to log in, and what may be done to it."""

    host: str
    port: int
    username: str
    client_key: Path
    known_hosts: Path
    child: Child

    def log(self) -> str:
        """Everything it has logged."""
        return self.child.log()

    def sessions(self) -> list[psutil.Process]:
        """The processes that serve connections."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.child.pid).children(recursive=True)
        return []

    def open_files(self, path: str) -> int:
        """Count the descriptors with which the processes that serve connections have a file open."""
        count = 0
        for process in self.sessions():
            with contextlib.suppress(psutil.NoSuchProcess):
                count += sum(file.path == path for file in process.open_files())
        return count

    def kill_sessions(self) -> int:
        """SIGKILL all that serve connections; the server goes on. Returns how many there were."""
        killed = self.sessions()
        for process in killed:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return len(killed)


@contextlib.contextmanager
def running_sshd(
    folder: Path,
    *config: str,
    open_files: int | None = None,
    host: str = "127.0.0.1",
    enter: Sequence[str] = (),
) -> Iterator[Sshd]:
    """Start a server on a free port.

    Args:
        folder: For its files; made if it is not there.
        config: Lines that come before the usual ones: with sshd, the first one counts.
        open_files: How many files it may have open; its SFTP subsystem says so to the client.
        host: Where it listens.
        enter: The first words of its command, where it is to run in another network namespace.

    Raises:
        MissingServer: There is no ``sshd`` on this machine.
    """
    program = _find()
    if not any(line.startswith("Subsystem") for line in config):  # two of one name are an error
        config = (*config, _SUBSYSTEM)
    folder.mkdir(parents=True, exist_ok=True)
    host_key = _write_key(folder / "host_key")
    client_key = _write_key(folder / "client_key")
    (folder / "authorized_keys").write_text(client_key)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd locks in its unprivileged half
    for _ in range(_PORTS_TO_TRY):
        port = _free_port()
        text = "".join(f"{line}\n" for line in config) + _CONFIG.format(host=host, port=port, folder=folder)
        (folder / "sshd_config").write_text(text)
        (folder / "known_hosts").write_text(f"[{host}]:{port} {host_key}")
        command = [*enter, program, "-D", "-e", "-f", str(folder / "sshd_config")]
        with Child(_limited(command, open_files), log=folder / "sshd.log") as child:
            if not child.wait_for_log(_STARTED, 120.0):
                continue  # that port was taken in between
            server = Sshd(host, port, getpass.getuser(), folder / "client_key", folder / "known_hosts", child)
            try:
                yield server
            finally:
                server.kill_sessions()  # they are sessions of their own and would outlive the listener
            return
    raise RuntimeError(f"sshd did not start:\n{(folder / 'sshd.log').read_text()}")


def _find() -> str:
    found = shutil.which("sshd", path=os.pathsep.join((os.environ.get("PATH", ""), *_FOLDERS)))
    if found is None:
        raise MissingServer("sshd is not installed (Debian: openssh-server)")
    return str(Path(found).resolve())  # it starts itself anew for each connection, and wants the whole path


def _limited(command: Sequence[str], open_files: int | None) -> Sequence[str]:
    if open_files is None:
        return command
    return ["/bin/sh", "-c", f'ulimit -n {open_files} && exec "$@"', "sh", *command]


def _write_key(path: Path) -> str:
    key = asyncssh.generate_private_key("ssh-ed25519")
    path.touch(mode=0o600)
    key.write_private_key(path)
    return key.export_public_key().decode()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
