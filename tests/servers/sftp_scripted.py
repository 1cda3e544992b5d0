"""An SFTP server of a few lines, served through asyncssh, whose every answer a test may bend."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.servers import sftp_wire as wire

__all__ = ["Request", "Scripted"]

INIT, OPEN, CLOSE, READ, FSTAT, OPENDIR, READDIR = 1, 3, 4, 5, 8, 11, 12


@dataclass(frozen=True)
class Request:
    """One packet from the client."""

    kind: int
    id: int
    text: bytes  # the path or the handle
    offset: int = 0
    length: int = 0


@dataclass
class Scripted:
    """Serves files from a dictionary; a file's handle is its path.

    Attributes:
        files: Path to content.
        listing: What READDIR gives: names, in one answer.
        read_bytes: Most bytes of one DATA.
        announced: FSTAT's size of a path, where it is not the true one; ``None``: no size at all.
        reverse: Answer what came together in the opposite order.
        bend: May replace the answer to a request; ``b""`` for none at all.
        open_handles: Those that are open now; it has to be none in the end.
        greeting: What is sent in place of a VERSION.
    """

    files: Mapping[bytes, bytes] = field(default_factory=dict)
    listing: tuple[bytes, ...] = ()
    read_bytes: int = 32768
    announced: Mapping[bytes, int | None] = field(default_factory=dict)
    reverse: bool = False
    bend: Callable[[Request, bytes], bytes] = lambda _, answer: answer
    open_handles: list[bytes] = field(default_factory=list)
    greeting: bytes | None = None
    listed: bool = False

    def __call__(self) -> Callable[[bytes], bytes]:
        """Begin a session."""
        buffer = b""

        def receive(data: bytes) -> bytes:
            nonlocal buffer
            buffer += data
            answers = []
            while len(buffer) >= 4 and len(buffer) >= (size := 4 + struct.unpack(">I", buffer[:4])[0]):
                answers.append(self.answer(buffer[4:size]))
                buffer = buffer[size:]
            return b"".join(reversed(answers) if self.reverse else answers)

        return receive

    def answer(self, packet: bytes) -> bytes:
        """Answer one packet."""
        if packet[0] == INIT:
            return wire.version() if self.greeting is None else self.greeting
        request_id, size = struct.unpack(">II", packet[1:9])
        text = packet[9 : 9 + size]
        offset, length = struct.unpack(">QI", packet[9 + size :]) if packet[0] == READ else (0, 0)
        request = Request(packet[0], request_id, text, offset, length)
        return self.bend(request, self.plain(request))

    def plain(self, request: Request) -> bytes:
        """The answer of a server that means well."""
        match request.kind:
            case 3 | 11:  # OPEN, OPENDIR
                if request.kind == OPEN and request.text not in self.files:
                    return wire.status(request.id, 2)
                self.open_handles.append(request.text)
                return wire.handle(request.id, request.text)
            case 4:  # CLOSE
                self.open_handles.remove(request.text)
                return wire.status(request.id, 0)
            case 5:  # READ
                content = self.files[request.text][request.offset :][: min(request.length, self.read_bytes)]
                return wire.data(request.id, content) if content else wire.status(request.id, 1)
            case 8:  # FSTAT
                size = self.announced.get(request.text, len(self.files[request.text]))
                return wire.attrs(request.id, size, 0o100644, 1_600_000_000)
            case 12 if self.listing and not self.listed:  # READDIR
                self.listed = True
                return wire.names(request.id, *((name, wire.attributes(1, 0o100644, 1)) for name in self.listing))
            case _:
                return wire.status(request.id, 1)
