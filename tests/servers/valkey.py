"""A private Valkey on a TCP port, which may be killed, restarted over its append-only file, and frozen."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import redis

from asyncworker.cli.embedded import find_server
from asyncworker.errors import EmbeddedServerError
from asyncworker.processes import Child
from tests.servers import MissingServer
from tests.servers.ports import free_port

__all__ = ["RestartableValkey", "running_valkey"]

START_S = 120.0


class RestartableValkey:
    """One server, always on the same port and the same data.

    Args:
        folder: For its data and its log.
        options: Settings of its own, by name.
    """

    def __init__(self, folder: Path, options: Mapping[str, str] | None = None) -> None:
        try:
            self._program = find_server()
        except EmbeddedServerError as exc:
            raise MissingServer(str(exc)) from exc
        self.port = free_port()
        self.folder = folder
        self._options = dict(options or {})
        self._child: Child | None = None

    def url(self, database: int = 0, port: int | None = None) -> str:
        """The URL of a database; through a proxy, where its port is given."""
        return f"redis://127.0.0.1:{port or self.port}/{database}"

    def connect(self) -> redis.Redis:
        """A connection to the broker's database, to look and to do harm with; the caller closes it."""
        return redis.Redis.from_url(self.url())

    def start(self) -> None:
        """Start it; what an earlier one has written is there again."""
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            **self._options,
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._child = Child([str(self._program), *arguments], log=self.folder / "valkey.log")
        give_up_at_s = time.monotonic() + START_S
        while not self._answers():
            assert self._child.returncode is None, self._child.log()
            assert time.monotonic() < give_up_at_s, self._child.log()
            time.sleep(0.01)

    def stop(self) -> None:
        """Ask it to end."""
        if self._child is not None:
            self._child.signal(signal.SIGCONT)
            self._child.stop()
            self._child = None

    def kill(self) -> None:
        """SIGKILL."""
        assert self._child is not None
        self._child.kill()
        self._child = None

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open, and nothing answers."""
        assert self._child is not None
        self._child.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._child is not None
        self._child.signal(signal.SIGCONT)

    def kill_connections(self) -> int:
        """Cut every connection but the one that asks for it; returns how many there were."""
        with self.connect() as connection:
            return sum(int(connection.client_kill_filter(_type=kind, skipme=True)) for kind in ("normal", "pubsub"))

    @contextlib.contextmanager
    def refusing_writes(self, *, as_replica: bool) -> Iterator[redis.Redis]:
        """Have it answer and refuse to write while the block runs: as a replica of nobody, or since it is full."""
        with self.connect() as connection:
            if as_replica:
                connection.replicaof("127.0.0.1", self.port + 1)
            else:
                connection.config_set("maxmemory", 1)
            try:
                yield connection
            finally:
                connection.replicaof("NO", "ONE")
                connection.config_set("maxmemory", 0)

    def _answers(self) -> bool:
        with contextlib.suppress(redis.RedisError), self.connect() as connection:
            return bool(connection.ping())  # false while it still loads its file: BusyLoadingError
        return False


@contextlib.contextmanager
def running_valkey(folder: Path, options: Mapping[str, str] | None = None) -> Iterator[RestartableValkey]:
    """Run a server until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    server = RestartableValkey(folder, options)
    try:
        server.start()
        yield server
    finally:
        server.stop()
