"""paramiko's SFTP server on threads: another author's, with no extension at all: no limits, no rename over a file."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import asyncssh
import paramiko

from tests.servers.sftp import USERNAME, SFTPServer

__all__ = ["running_paramiko_server"]


class _Login(paramiko.ServerInterface):
    def __init__(self, key: paramiko.PKey) -> None:
        self._key = key

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        known = username == USERNAME and key == self._key
        return paramiko.AUTH_SUCCESSFUL if known else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED


class _File(paramiko.SFTPHandle):
    """paramiko's own reading and writing, and an FSTAT that works; the fixture closes what a cut connection leaves."""

    opened: ClassVar[set[_File]] = set()

    def close(self) -> None:
        self.opened.discard(self)
        with contextlib.suppress(OSError):  # of a full disk
            super().close()

    def stat(self) -> Any:
        return paramiko.SFTPAttributes.from_stat(os.fstat(self.readfile.fileno()))

    def chattr(self, attr: Any) -> int:
        paramiko.SFTPServer.set_file_attr(self.name, attr)
        return paramiko.SFTP_OK


class _Disk(paramiko.SFTPServerInterface):
    """The machine's own disk."""

    def _try(self, call: Any, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    def list_folder(self, path: str) -> Any:
        def entries() -> list[Any]:
            found = []
            for name in os.listdir(path):  # noqa: PTH208
                found.append(paramiko.SFTPAttributes.from_stat(os.lstat(f"{path}/{name}"), name))
            return found

        return self._try(entries)

    def stat(self, path: str) -> Any:
        return self._try(lambda: paramiko.SFTPAttributes.from_stat(os.stat(path)))  # noqa: PTH116

    def lstat(self, path: str) -> Any:
        return self._try(lambda: paramiko.SFTPAttributes.from_stat(os.lstat(path)))

    def open(self, path: str, flags: int, attr: Any) -> Any:
        def opened() -> Any:
            fd = os.open(path, flags, 0o666 if attr.st_mode is None else attr.st_mode)
            file = _File(flags)
            file.name = path
            _File.opened.add(file)
            file.readfile = file.writefile = os.fdopen(fd, "rb" if flags & 3 == os.O_RDONLY else "wb")
            return file

        return self._try(opened)

    def remove(self, path: str) -> Any:
        return self._done(os.unlink, path)

    def rename(self, oldpath: str, newpath: str) -> Any:
        if Path(newpath).exists():  # as version 3 has it
            return paramiko.SFTP_FAILURE
        return self._done(os.rename, oldpath, newpath)

    def mkdir(self, path: str, attr: Any) -> Any:
        return self._done(os.mkdir, path)

    def rmdir(self, path: str) -> Any:
        return self._done(os.rmdir, path)

    def chattr(self, path: str, attr: Any) -> Any:
        def change() -> None:
            if attr._flags & attr.FLAG_SIZE:  # paramiko's own way empties the file first
                os.truncate(path, attr.st_size)
                attr._flags &= ~attr.FLAG_SIZE
            paramiko.SFTPServer.set_file_attr(path, attr)

        return self._done(change)

    def symlink(self, target_path: str, path: str) -> Any:
        return self._done(os.symlink, target_path, path)

    def readlink(self, path: str) -> Any:
        return self._try(os.readlink, path)

    def _done(self, call: Any, *arguments: Any) -> Any:
        code = self._try(call, *arguments)
        return paramiko.SFTP_OK if code is None else code


@contextlib.contextmanager
def running_paramiko_server(folder: Path) -> Iterator[SFTPServer]:
    """Start a server on a free port of 127.0.0.1; ``folder`` takes its keys."""
    folder.mkdir(parents=True, exist_ok=True)
    host_key, client_key = asyncssh.generate_private_key("ssh-rsa"), asyncssh.generate_private_key("ssh-ed25519")
    (folder / "client_key").touch(mode=0o600)  # the program ssh wants it so
    client_key.write_private_key(folder / "client_key")
    host_key.write_private_key(folder / "host_key")
    key = paramiko.RSAKey.from_private_key_file(str(folder / "host_key"))
    known = paramiko.Ed25519Key.from_private_key_file(str(folder / "client_key"))
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key.export_public_key().decode()}")
    sessions: list[paramiko.Transport] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                transport = paramiko.Transport(sock)
                sessions.append(transport)
                transport.add_server_key(key)
                transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Disk)
                with contextlib.suppress(paramiko.SSHException, EOFError):
                    transport.start_server(server=_Login(known), event=threading.Event())

    thread = threading.Thread(target=accept, name="paramiko-server", daemon=True)
    thread.start()
    try:
        yield SFTPServer("127.0.0.1", port, USERNAME, "", folder / "client_key", folder / "known_hosts", None)  # type: ignore[arg-type]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(120)
        for transport in sessions:
            transport.close()
        for transport in sessions:
            transport.join(120)
        while _File.opened:
            _File.opened.copy().pop().close()
