"""The server and the lines to it: requests and answers travel one by one, in an order that chance decides."""

from __future__ import annotations

import asyncio
import random
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from asyncworker.errors import SFTPConnectError
from asyncworker.sftp.options import Options
from asyncworker.sftp.transports import Receiver
from tests.servers import sftp_wire as wire
from tests.servers.sftp_hostile import Hostile, Request
from tests.servers.sftp_hostile.operations import Operations
from tests.servers.sftp_hostile.requests import parse

__all__ = ["Client", "Fault", "Line", "World"]


@dataclass(frozen=True)
class Fault:
    """What happens at one request.

    Attributes:
        kind: ``refuse`` it, ``cut`` its connection or ``kill`` its client, before or after it is done.
        done: Whether the server has done what it asks for.
        code: Of the refusal.
    """

    kind: str
    done: bool = False
    code: int = 0


@dataclass
class World:
    """What the writers share.

    Attributes:
        server: The server.
        chance: Decides what happens next.
        faults: Number of a request, from 1, to what happens at it.
        changed: Called after each request that was done.
    """

    server: Hostile
    chance: random.Random
    faults: dict[int, Fault] = field(default_factory=dict)
    changed: Callable[[Request], None] = lambda _: None
    lines: list[Line] = field(default_factory=list)
    requests: int = 0
    log: list[str] = field(default_factory=list)
    _waiting: list[tuple[int, asyncio.Event]] = field(default_factory=list)

    async def reached(self, number: int) -> None:
        """Wait for that request, or for the end of one of those who make requests."""
        event = asyncio.Event()
        self._waiting.append((number, event))
        self._begin()
        await event.wait()

    def begin_all(self) -> None:
        """Let nobody wait for a request."""
        self._waiting = [(0, event) for _, event in self._waiting]
        self._begin()

    def _begin(self) -> None:
        for number, event in self._waiting:
            if number <= self.requests:
                event.set()

    def step(self) -> bool:
        """Let one request be done, or one answer arrive; returns whether there was any."""
        busy = [line for line in self.lines if line.requests or line.answers]
        if not busy:
            return False
        line = self.chance.choice(busy)
        if line.answers and (not line.requests or self.chance.random() < 0.6):
            line.deliver()
        else:
            self._do(line)
        return True

    def _do(self, line: Line) -> None:
        request = parse(line.requests.popleft(), line.number)
        handle = line.operations.handles.get(request.handle)
        request.path = handle.path if handle is not None else request.path
        self.requests += 1
        self._begin()
        fault = self.faults.get(self.requests)
        if fault is not None and fault.kind == "refuse":
            answer = wire.status(request.id, fault.code)
            request.status = fault.code
            if request.kind == "CLOSE":  # the handle is gone, whatever became of what was written
                line.operations.handles.pop(request.handle, None)
        elif fault is not None and not fault.done:
            answer = b""
        else:
            answer = line.operations.answer(request)
        self.log.append(
            f"{self.requests}: {line.client.name} {request.kind} {request.path!r} {request.second!r} "
            f"{request.offset if request.kind == 'WRITE' else ''} -> {request.status}{f' {fault}' if fault else ''}"
        )
        self.changed(request)
        if fault is not None and fault.kind == "cut":
            line.lose()
        elif fault is not None and fault.kind == "kill":
            line.client.kill()
        else:
            line.answers.append(answer)


class Client:
    """A process: its lines are cut when it is killed, and it makes no new ones."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.world = world
        self.killed = False
        self.on_kill: Callable[[], None] = lambda: None

    async def connect(self, options: Options, receiver: Receiver) -> Line:
        """Open a line: what a pool calls a transport."""
        await asyncio.sleep(0)
        if self.killed:
            raise SFTPConnectError("this process has ended", host=options.address)
        return Line(self, receiver)

    def kill(self) -> None:
        """End it, in the middle of whatever it does."""
        self.killed = True
        for line in self.world.lines:
            if line.client is self:
                line.lose()
        self.on_kill()


class Line:
    """One connection; a transport of the pool's."""

    server_version = ""

    def __init__(self, client: Client, receiver: Receiver) -> None:
        world = client.world
        self.client = client
        self.number = len(world.lines)
        self.operations = Operations(world.server)
        self.requests: deque[bytes] = deque()
        self.answers: deque[bytes] = deque()
        self._receiver = receiver
        self._buffer = b""
        self._open = True
        world.lines.append(self)

    def write(self, data: bytes) -> None:
        """Take what the client sends."""
        if not self._open:
            raise BrokenPipeError("the line is cut")
        self._buffer += data
        while len(self._buffer) >= 4 and len(self._buffer) >= (stop := 4 + struct.unpack(">I", self._buffer[:4])[0]):
            packet, self._buffer = self._buffer[4:stop], self._buffer[stop:]
            if packet[0] == 1:
                offered = self.client.world.server.offered().items()
                pairs = [(f"{name}@openssh.com".encode(), value) for name, value in offered if name != "copy-data"]
                self.answers.append(wire.version(3, *pairs))
            else:
                self.requests.append(packet)

    def deliver(self) -> None:
        """Let the client have the next answer."""
        self._receiver.feed(self.answers.popleft())

    def lose(self) -> None:
        """Cut it: some of what was sent is done all the same, and no answer arrives any more."""
        if not self._open:
            return
        world = self.client.world
        for _ in range(world.chance.randrange(len(self.requests) + 1)):
            request = parse(self.requests.popleft(), self.number)
            self.operations.answer(request)
            world.log.append(f"   late: {self.client.name} {request.kind} {request.path!r} {request.second!r}")
            world.changed(request)
        self.abort()
        asyncio.get_running_loop().call_soon(self._receiver.lost, None)

    def abort(self) -> None:
        """Close it."""
        self._open = False
        self.requests.clear()
        self.answers.clear()

    async def close(self) -> None:
        """Close it."""
        self.abort()
