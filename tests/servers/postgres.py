"""A real PostgreSQL in a temporary folder, on a free port of 127.0.0.1."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import asyncpg

from asyncworker.processes import Child
from tests.servers import MissingServer
from tests.servers.ports import free_port

__all__ = ["Postgres", "running_postgres"]

_START_S = 120.0
#: Nothing here has to survive a power cut.
_OPTIONS = {"fsync": "off", "listen_addresses": "127.0.0.1", "max_connections": "100"}

_DROP = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = 'postgres'"


class Postgres:
    """Where it is, and what may be done to it."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.port = free_port()
        self._programs = programs
        self._folder = folder
        self._child: Child | None = None

    def url(self, database: str) -> str:
        """The URL for ``ASYNCWORKER_STORE_URL``."""
        return f"postgresql+asyncpg://postgres@127.0.0.1:{self.port}/{database}"

    def add_database(self) -> str:
        """Make an empty database; returns its name."""
        name = f"test_{uuid.uuid4().hex[:8]}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run one statement, past everything that is tested."""
        asyncio.run(self.execute_async(statement, database))

    async def execute_async(self, statement: str, database: str = "postgres") -> None:
        """Awaitable twin of :meth:`execute`."""
        connection = await asyncpg.connect(host="127.0.0.1", port=self.port, user="postgres", database=database)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def drop_connections(self) -> None:
        """Cut every connection but the one that asks for it."""
        self.execute(_DROP)

    async def drop_connections_async(self) -> None:
        """Awaitable twin of :meth:`drop_connections`."""
        await self.execute_async(_DROP)

    def create(self) -> None:
        """Make the data folder."""
        command = [str(self._programs / "initdb"), "-D", str(self._folder / "data"), "-U", "postgres", "-A", "trust"]
        command += ["--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"]
        done = subprocess.run(_as_user(command), cwd=self._folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    def start(self) -> None:
        """Start it; returns once it answers."""
        options = _OPTIONS | {"port": str(self.port), "unix_socket_directories": str(self._folder)}
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        command = _as_user([str(self._programs / "postgres"), "-D", str(self._folder / "data"), *settings])
        # SIGINT: end now, in order. SIGTERM would wait for the clients.
        self._child = Child(command, log=self._folder / "log", stop_signal=signal.SIGINT, cwd=self._folder)
        give_up_at_s = time.monotonic() + _START_S
        while "ready to accept connections" not in self._child.log():
            assert self._child.returncode is None, self._child.log()
            assert time.monotonic() < give_up_at_s, self._child.log()
            time.sleep(0.02)

    def stop(self) -> None:
        """End it; its clients' connections end."""
        if self._child is not None:
            self._child.stop()
            self._child = None


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Run a server until the block ends.

    Raises:
        MissingServer: There is no PostgreSQL on this machine.
    """
    programs = _find()
    # Not below a test's own folder, which is closed to the user that root has to become.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        if os.geteuid() == 0:
            user = _user()
            os.chown(folder, user.pw_uid, user.pw_gid)
        server = Postgres(programs, folder)
        server.create()
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _find() -> Path:
    # Debian keeps them off PATH, a folder for each version.
    for found in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True):
        return found.parent
    on_path = shutil.which("initdb")
    if on_path is None:
        raise MissingServer("PostgreSQL is not installed (Debian: postgresql)")
    return Path(on_path).resolve().parent


def _user() -> pwd.struct_passwd:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


def _as_user(command: Sequence[str]) -> list[str]:
    """PostgreSQL refuses to run as root: become somebody else."""
    if os.geteuid() != 0:
        return list(command)
    setpriv = shutil.which("setpriv")
    assert setpriv is not None, "setpriv is part of util-linux"
    user = _user()
    # The kernel forgets with the change of user that it should die with its owner.
    return [
        setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig", "KILL", "--",
        *command,
    ]  # fmt: skip
