"""asyncssh's own SFTP server on a thread, for servers that must behave in a way that OpenSSH cannot be made to."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import asyncssh

__all__ = ["SFTPServer", "TidyFiles", "running_sftp_server"]

USERNAME = "tester"
PASSWORD = "correct horse"


class TidyFiles(asyncssh.SFTPServer):
    """asyncssh's plain server, which leaves files open where a connection is cut; the fixture closes those."""

    opened: ClassVar[set[Any]] = set()

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> Any:
        file = super().open(path, pflags, attrs)
        self.opened.add(file)
        return file

    def close(self, file_obj: Any) -> None:
        self.opened.discard(file_obj)
        file_obj.close()


#: Makes, for one session, what answers bytes with bytes.
RawServer = Callable[[], Callable[[bytes], bytes]]

#: Makes a session of its own kind on a connection, or refuses it by ``False``.
SessionFactory = Callable[[asyncssh.SSHServerConnection], "asyncssh.SSHServerSession[bytes] | bool"]


class _RawSession(asyncssh.SSHServerSession[bytes]):
    """The ``sftp`` subsystem with nothing of SFTP in it."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self._answer = answer

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan

    def subsystem_requested(self, subsystem: str) -> bool:
        return True

    def data_received(self, data: bytes, datatype: int | None) -> None:
        answer = self._answer(data)
        if answer:
            self._channel.write(answer)


@dataclass
class SFTPServer:
    """Where it is, how to log in, and what may be done to it."""

    host: str
    port: int
    username: str
    password: str
    client_key: Path
    known_hosts: Path
    loop: asyncio.AbstractEventLoop
    connections: list[asyncssh.SSHServerConnection] = field(default_factory=list)
    alive: set[Any] = field(default_factory=set)
    logins: int = 0

    def drop_connections(self) -> int:
        """Cut all connections without a word; the server goes on. Returns how many there were."""

        async def drop() -> int:
            for connection in self.connections:
                connection.abort()
            count = len(self.connections)
            self.connections.clear()
            return count

        return asyncio.run_coroutine_threadsafe(drop(), self.loop).result(10)


@contextlib.contextmanager
def running_sftp_server(
    folder: Path,
    *,
    sftp_factory: Callable[[asyncssh.SSHServerChannel[bytes]], asyncssh.SFTPServer] | None = None,
    raw: RawServer | None = None,
    session: SessionFactory | None = None,
    most_logins: int | None = None,
    most_connections: Callable[[], int | None] = lambda: None,
) -> Iterator[SFTPServer]:
    """Start a server on a free port of 127.0.0.1.

    Args:
        folder: For its keys; made if it is not there.
        sftp_factory: Makes the object that serves files; ``None``: the plain one.
        raw: Speaks in its place, and may send what it likes.
        session: Makes the whole session, in place of all these.
        most_logins: Cut connections beyond that number, of all that were ever made.
        most_connections: Returns how many connections may live at once; others are cut.
    """
    folder.mkdir(parents=True, exist_ok=True)
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    client_key = asyncssh.generate_private_key("ssh-ed25519")
    (folder / "client_key").touch(mode=0o600)  # the program ssh wants it so
    client_key.write_private_key(folder / "client_key")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="sftp-server", daemon=True)
    thread.start()
    server = SFTPServer("127.0.0.1", 0, USERNAME, PASSWORD, folder / "client_key", folder / "known_hosts", loop)

    stopping = threading.Event()

    class Login(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            full = most_logins is not None and len(server.connections) >= most_logins
            most = most_connections()
            if full or stopping.is_set() or (most is not None and len(server.alive) >= most):
                conn.abort()
                return
            server.connections.append(conn)
            server.alive.add(conn)
            self.connection = conn

        def connection_lost(self, exc: Exception | None) -> None:
            server.alive.discard(getattr(self, "connection", None))

        def session_requested(self) -> Any:
            assert raw is not None or session is not None  # with an sftp_factory, nobody asks here
            made = _RawSession(raw()) if session is None else session(self.connection)
            return made and (self.connection.create_server_channel(encoding=None), made)

        def auth_completed(self) -> None:
            server.logins += 1

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return (username, password) == (USERNAME, PASSWORD)

    async def start() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=Login,
            server_host_keys=[host_key],
            authorized_client_keys=asyncssh.import_authorized_keys(client_key.export_public_key().decode()),
            sftp_factory=None if raw or session else sftp_factory or TidyFiles,
        )

    async def stop() -> None:
        acceptor.close()
        stopping.set()
        for _ in range(5):  # what was accepted a moment ago becomes a connection only now
            await asyncio.sleep(0)
        for connection in server.connections:
            connection.abort()
        await acceptor.wait_closed()
        await asyncio.wait_for(asyncio.gather(*(connection.wait_closed() for connection in server.connections)), 10)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        while TidyFiles.opened:
            TidyFiles.opened.pop().close()
        # asyncio closes the socket of a cut connection some turns later, and one that was accepted just now after more.
        await asyncio.sleep(0.05)

    acceptor = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    server.port = acceptor.get_port()
    known = host_key.export_public_key().decode()
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {known}")
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(120)
        loop.close()
        _collect()


def _collect() -> None:
    """Close what was accepted in the loop's last turns; the collector is early enough for that here."""
    told, sys.unraisablehook = sys.unraisablehook, lambda _: None  # in Python 3.13 asyncio stumbles over it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
    finally:
        sys.unraisablehook = told
