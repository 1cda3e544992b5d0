"""asyncssh's own SFTP server on a thread, for servers that must behave in a way that OpenSSH cannot be made to."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
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


RawServer = Callable[[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]], Awaitable[None]]


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
) -> Iterator[SFTPServer]:
    """Start a server on a free port of 127.0.0.1.

    Args:
        folder: For its keys; made if it is not there.
        sftp_factory: Makes the object that serves files; ``None``: the plain one.
        raw: Speaks in its place: gets the two streams of the ``sftp`` subsystem and may send what it likes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    client_key = asyncssh.generate_private_key("ssh-ed25519")
    client_key.write_private_key(folder / "client_key")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="sftp-server", daemon=True)
    thread.start()
    server = SFTPServer("127.0.0.1", 0, USERNAME, PASSWORD, folder / "client_key", folder / "known_hosts", loop)

    class Login(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            server.connections.append(conn)

        def auth_completed(self) -> None:
            server.logins += 1

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return (username, password) == (USERNAME, PASSWORD)

    async def start() -> asyncssh.SSHAcceptor:
        options: dict[str, Any] = {"sftp_factory": sftp_factory or TidyFiles}
        if raw is not None:

            async def speak(process: asyncssh.SSHServerProcess[bytes]) -> None:
                with contextlib.suppress(asyncssh.Error, OSError, asyncio.IncompleteReadError):
                    await raw(process.stdin, process.stdout)
                process.exit(0)

            options = {"process_factory": speak, "encoding": None}
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=Login,
            server_host_keys=[host_key],
            authorized_client_keys=asyncssh.import_authorized_keys(client_key.export_public_key().decode()),
            **options,
        )

    async def stop() -> None:
        acceptor.close()
        for connection in server.connections:
            connection.abort()
        await acceptor.wait_closed()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        while TidyFiles.opened:
            TidyFiles.opened.pop().close()

    acceptor = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    server.port = acceptor.get_port()
    known = host_key.export_public_key().decode()
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {known}")
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
