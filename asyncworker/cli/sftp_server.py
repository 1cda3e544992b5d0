"""The demo's SFTP server, a process of its own: ``python -m asyncworker.cli.sftp_server --help``.

It serves one folder, read by key login only, on a free port of 127.0.0.1, and writes what a client needs to know to the
ready file once it listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn

import asyncssh
import click
import msgspec

from asyncworker.private_files import make_private_folder

__all__ = ["ServerAddress", "main", "read_address"]

USERNAME = "demo"


class ServerAddress(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach the server; the last two are paths of files."""

    host: str
    port: int
    username: str
    client_key: str
    known_hosts: str


def read_address(path: Path) -> ServerAddress:
    """Read the ready file."""
    return msgspec.json.decode(path.read_bytes(), type=ServerAddress)


def _refuse(*_arguments: object) -> NoReturn:
    raise asyncssh.SFTPPermissionDenied("this server is read-only")


class _ReadOnlyServer(asyncssh.SFTPServer):
    """asyncssh's own server, closed to writes; it notes each file that is opened, one path a line."""

    # Of any signature: they are never more than called.
    _refused: Any = staticmethod(_refuse)
    open56 = write = setstat = lsetstat = fsetstat = _refused
    mkdir = rmdir = remove = rename = posix_rename = symlink = link = _refused

    def __init__(self, channel: asyncssh.SSHServerChannel[bytes], root: Path, opened: IO[bytes] | None) -> None:
        super().__init__(channel, chroot=os.fsencode(root))
        self._opened = opened

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        if pflags & ~asyncssh.FXF_READ:
            _refuse()
        if self._opened is not None:
            self._opened.write(path + b"\n")
        return super().open(path, pflags, attrs)


async def serve(root: Path, keys: Path, ready: Path, opened: Path | None) -> None:
    """Serve until SIGTERM or SIGINT."""
    host_key, client_key = _key(keys / "host_key"), _key(keys / "client_key")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        # Unbuffered: what it says must be right after a kill, too.
        log = stack.enter_context(opened.open("ab", buffering=0)) if opened is not None else None
        acceptor = await stack.enter_async_context(
            asyncssh.listen(
                "127.0.0.1",
                0,
                server_host_keys=[host_key],
                authorized_client_keys=asyncssh.import_authorized_keys(client_key.export_public_key().decode()),
                sftp_factory=lambda channel: _ReadOnlyServer(channel, root, log),
                allow_scp=False,
                # A list of our own order: AES in the CPU's hardware instead of ChaCha20 in Python.
                encryption_algs="^aes128-gcm@openssh.com",
                compression_algs=None,
                gss_host=None,
            )
        )
        port = acceptor.get_port()
        known_hosts = keys / "known_hosts"
        known_hosts.write_bytes(b"[127.0.0.1]:%d %s" % (port, host_key.export_public_key()))
        address = ServerAddress(
            host="127.0.0.1",
            port=port,
            username=USERNAME,
            client_key=str(keys / "client_key"),
            known_hosts=str(known_hosts),
        )
        # Renamed into place: whoever sees the file sees all of it.
        draft = ready.with_name(f".{ready.name}.{os.getpid()}")
        draft.write_bytes(msgspec.json.encode(address))
        draft.replace(ready)
        await stop.wait()


def _key(path: Path) -> asyncssh.SSHKey:
    if not path.exists():
        make_private_folder(path.parent)
        key = asyncssh.generate_private_key("ssh-ed25519")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.export_private_key())
    return asyncssh.read_private_key(path)


_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option("--root", type=_FOLDER, required=True, help="The folder that clients see as /.")
@click.option("--keys", type=_FOLDER, required=True, help="Where keys and known_hosts are, made when missing.")
@click.option("--ready", type=_FILE, required=True, help="Written when the server listens: its address, as JSON.")
@click.option("--opened", type=_FILE, help="Appended to: the path of each file that a client opens.")
def main(root: Path, keys: Path, ready: Path, opened: Path | None) -> None:
    """Serve ROOT over SFTP."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(root.absolute(), keys.absolute(), ready.absolute(), opened))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    main()
