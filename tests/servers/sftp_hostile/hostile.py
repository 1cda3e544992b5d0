"""The server: what it holds and has seen, its sessions, and how it is started."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from tests.servers import sftp_wire as wire
from tests.servers.sftp import SFTPServer, running_sftp_server
from tests.servers.sftp_hostile.operations import Operations
from tests.servers.sftp_hostile.requests import Request, parse
from tests.servers.sftp_hostile.switches import Switches
from tests.servers.sftp_hostile.tree import Tree

__all__ = ["Hostile", "running_hostile_server"]


@dataclass
class Hostile(Switches):
    """A server's switches, its tree, and what its clients did.

    Attributes:
        tree: What it serves.
        history: Each request in the order of arrival, of all sessions.
        sessions: Those that were ever started.
        taken: Path and content of each file that was taken at its CLOSE.
        most_in_air: Most requests that one session had in the air at once; ``delay_s`` makes it what a far server sees.
        refused_sessions: Sessions that were refused for ``most_sessions``.
        hung_up: Connections that were cut by one of the switches.
    """

    tree: Tree = field(default_factory=Tree)
    history: list[Request] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    taken: list[tuple[bytes, bytes]] = field(default_factory=list)
    given: dict[int, set[int]] = field(default_factory=dict)
    most_in_air: int = 0
    refused_sessions: int = 0
    hung_up: int = 0

    def count(self, *kinds: str) -> int:
        """Number of requests of these kinds; of all, without any."""
        return sum(not kinds or request.kind in kinds for request in tuple(self.history))

    def counts(self) -> Counter[str]:
        """Number of requests by kind."""
        return Counter(request.kind for request in tuple(self.history))

    def of(self, *kinds: str) -> list[Request]:
        """Requests of these kinds, in the order of arrival."""
        return [request for request in tuple(self.history) if request.kind in kinds]

    @property
    def open_handles(self) -> list[bytes]:
        """Paths of handles that are open now in sessions that live; has to be empty in the end."""
        alive = [session for session in tuple(self.sessions) if session.alive]
        return [handle.path for session in alive for handle in tuple(session.operations.handles.values())]

    @property
    def in_air(self) -> int:
        """Requests that are not answered yet, in sessions that live."""
        return sum(session.in_air for session in tuple(self.sessions) if session.alive)


class Session(asyncssh.SSHServerSession[bytes]):
    """The ``sftp`` subsystem of one channel."""

    def __init__(self, server: Hostile, connection: asyncssh.SSHServerConnection) -> None:
        self.server = server
        self.connection = connection
        self.number = len(server.sessions)
        self.operations = Operations(server)
        self.alive = True
        self.received = 0
        self.in_air = 0
        self._buffer = b""
        self._idle: asyncio.TimerHandle | None = None
        server.sessions.append(self)

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == "sftp"

    def eof_received(self) -> bool:
        self._channel.exit(0)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        if self._idle is not None:
            self._idle.cancel()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Take what came together as in the air together, then answer it."""
        if not self.alive:
            return
        self._rest()
        self._buffer += data
        requests = []
        place = 0
        while len(self._buffer) >= place + 4:
            stop = place + 4 + struct.unpack_from(">I", self._buffer, place)[0]
            if len(self._buffer) < stop:
                break
            packet = self._buffer[place + 4 : stop]
            place = stop
            if packet[0] == 1:
                offered = [(f"{name}@openssh.com".encode(), data) for name, data in self.server.offered().items()]
                self._write(_renamed(wire.version(3, *offered)))
            else:
                requests.append(self._take(packet))
        self._buffer = self._buffer[place:]
        if self._misbehaves() and self._hangs_up(requests):
            self._hang_up()
            return
        self._answer([request for request in requests if not (self._misbehaves() and self._hangs(request))])

    def _take(self, packet: bytes) -> Request:
        request = parse(packet, self.number)
        handle = self.operations.handles.get(request.handle)
        if handle is not None:
            request.path = handle.path
        self.received += 1
        request.place = self.received
        self.in_air += 1
        self.server.most_in_air = max(self.server.most_in_air, self.in_air)
        self.server.history.append(request)
        return request

    # -- answers -----------------------------------------------------------------------------------------------------

    def _answer(self, requests: list[Request]) -> None:
        if self.server.reverse:
            requests = requests[::-1]
        at_once = []
        for request in requests:
            delay = self.server.delay_of(request.kind)
            if delay:
                asyncio.get_running_loop().call_later(delay, self._send, [request])
            else:
                at_once.append(request)
        self._send(at_once)

    def _send(self, requests: list[Request]) -> None:
        if not self.alive or not requests:
            return
        packets = []
        for request in requests:
            packets.append(self.operations.answer(request))
            self.in_air -= 1
        self._write(b"".join(packets))

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the client has just gone
            self._channel.write(data)

    # -- silence, and ends -------------------------------------------------------------------------------------------

    def _misbehaves(self) -> bool:
        return self.server.bad_sessions is None or self.number < self.server.bad_sessions

    def _hangs(self, request: Request) -> bool:
        hang, after = self.server.hang, self.server.hang_after
        if hang is True or (hang and request.kind in hang):
            return True
        return (after is not None and request.place > after) or self.server.hang_if(request)

    def _hangs_up(self, requests: list[Request]) -> bool:
        above, after = self.server.hang_up_above, self.server.hang_up_after
        if (above is not None and self.in_air > above) or (after is not None and self.received > after):
            return True
        return any(self.server.hang_up_if(request) for request in requests)

    def _hang_up(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self.server.hung_up += 1
        self.alive = False
        self.connection.abort()

    def _rest(self) -> None:
        """Begin the time without a request anew."""
        if self._idle is not None:
            self._idle.cancel()
        if self.server.idle_s is not None:
            self._idle = asyncio.get_running_loop().call_later(self.server.idle_s, self._hang_up)


def _renamed(version: bytes) -> bytes:
    """Give ``copy-data`` its name, which has no ``@openssh.com``."""
    old, new = wire.string(b"copy-data@openssh.com"), wire.string(b"copy-data")
    body = version[4:].replace(old, new)
    return struct.pack(">I", len(body)) + body


@contextlib.contextmanager
def running_hostile_server(folder: Path, server: Hostile) -> Iterator[SFTPServer]:
    """Start it on a free port of 127.0.0.1; ``folder`` takes its keys, and is made if it does not exist."""

    def session(connection: asyncssh.SSHServerConnection) -> Session | bool:
        open_now = sum(other.connection is connection and other.alive for other in server.sessions)
        if server.most_sessions is not None and open_now >= server.most_sessions:
            server.refused_sessions += 1
            return False
        return Session(server, connection)

    with running_sftp_server(folder, session=session, most_connections=lambda: server.most_connections) as running:
        yield running
