"""The client's side of SFTP version 3 as a state machine: bytes in, bytes out, callbacks. No I/O, no clock, no loop.

Source: draft-ietf-secsh-filexfer-02. Each request names a callback for its answer and an owner for its failure; any
number may be under way, and the server may answer in any order (section 3). What the server may not do (an answer that
nobody asked for, a second one, one of a wrong type, a packet that is too long or does not hold what it says) ends the
session at once: after that nothing that it says can be trusted.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from asyncworker.errors import SFTPConnectionLost, SFTPError, SFTPProtocolError
from asyncworker.sftp import packets
from asyncworker.sftp.packets import Kind, Limits, Malformed, Status

__all__ = ["SFTP_VERSION", "Answer", "Owner", "SFTPProtocol"]

logger = logging.getLogger(__name__)

SFTP_VERSION = 3

#: What a callback gets: bytes (a handle, data), Attributes, a tuple of Name, Limits; or a Status in its place.
Answer = Any

_LIMITS_EXTENSION = b"limits@openssh.com"
#: A rename over a file that exists, and a flush to the disk: draft version 3 has neither.
_POSIX_RENAME_EXTENSION = b"posix-rename@openssh.com"
_FSYNC_EXTENSION = b"fsync@openssh.com"
_STATVFS_EXTENSION = b"statvfs@openssh.com"
#: Digests of ranges of a file: draft-ietf-secsh-filexfer-extensions-00, section 3.
_CHECK_FILE_EXTENSION = b"check-file-name"

#: The longest packet that is taken before the server has named its limits; OpenSSH's own bound.
_PACKET_BYTES = 256 * 1024
#: Room for the fields around the data of a READ.
_ROOM_BYTES = 1024
#: READs are never larger than this, whatever the server offers: one block is held in memory whole.
_READ_BYTES_MAX = 1024 * 1024
#: What every server must take (section 3 asks for packets of 34,000 bytes).
_READ_BYTES_SAFE = 32 * 1024
_WRITE_BYTES_MAX = 256 * 1024

_PARSERS: dict[int, Callable[[bytes, int, int], Answer]] = {
    Kind.STATUS: packets.parse_status,
    Kind.HANDLE: packets.parse_handle,
    Kind.DATA: packets.parse_data,
    Kind.NAME: packets.parse_names,
    Kind.ATTRS: packets.parse_attributes,
    Kind.EXTENDED_REPLY: packets.parse_reply,
}


class Owner(Protocol):
    """Owner of a request."""

    def fail(self, error: Exception) -> None:
        """Take that no answer will come, or that the callback raised. Comes once for each request that is pending."""


class SFTPProtocol:
    """One session.

    Args:
        on_ready: Called once, when requests may be made.
        wake: Called when there is something to send and there was nothing before.
        host: The server's name in errors.
        window_bytes: No single READ or WRITE is larger than that; ``None``: as large as the server takes.
    """

    def __init__(
        self, on_ready: Callable[[], None], wake: Callable[[], None], *, host: str = "", window_bytes: int | None = None
    ) -> None:
        self._on_ready = on_ready
        self._wake = wake
        self._host = host
        self._outgoing: deque[bytes] = deque()
        self._buffer = b""
        self._parts: list[bytes] = []  # what came after `_buffer` of a packet that is not whole yet
        self._missing = 0  # bytes that `_parts` must bring until looking again is worth it
        self._bytes = 0  # that all pending requests ask for, or carry
        #: id -> kind of the answer, bytes asked for or carried, callback, owner
        self._pending: dict[int, tuple[int, int, Callable[[Answer], None], Owner]] = {}
        self._next_id = 0
        self._packet_bytes = _PACKET_BYTES
        self._ready = False
        self._extensions: dict[bytes, bytes] = {}
        self.bytes_out = 0
        """How many bytes the requests ask for, or carry, that were sent and not answered."""
        self.ended: Exception | None = None
        """Why the session is over; ``None`` while it lives."""
        self._largest = _READ_BYTES_MAX if window_bytes is None else window_bytes
        self.limits = Limits()
        """What the server allows."""
        self.read_bytes = min(_READ_BYTES_SAFE, self._largest)
        """How much one READ asks for at most."""
        self.write_bytes = min(_READ_BYTES_SAFE, self._largest)
        """How much one WRITE carries at most."""

    # -- bytes -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Say which version we speak."""
        self._send(packets.init_packet())

    def take_outgoing(self, requests: int | None = None, window_bytes: int | None = None) -> bytes:
        """Return what waits to be sent, as one piece: all of it, or as much as there is room for.

        Args:
            requests: Room for so many requests; ``None``: for any number.
            window_bytes: Room for so many bytes that they ask for or carry; ``None``: for any number.
        """
        outgoing = self._outgoing
        if (requests is None or len(outgoing) <= requests) and (
            window_bytes is None or self._bytes - self.bytes_out <= window_bytes
        ):
            data = b"".join(outgoing)
            outgoing.clear()
            self.bytes_out = self._bytes
            return data
        taken: list[bytes] = []
        while outgoing and (requests is None or len(taken) < requests):
            size = packets.payload_bytes(outgoing[0])
            if window_bytes is not None and size:
                if size > window_bytes:
                    break
                window_bytes -= size
            self.bytes_out += size
            taken.append(outgoing.popleft())
        return b"".join(taken)

    @property
    def waits_to_send(self) -> bool:
        """Whether a request waits for room."""
        return bool(self._outgoing)

    @property
    def pending(self) -> int:
        """How many requests are under way, or wait to be sent."""
        return len(self._pending)

    @property
    def requests_out(self) -> int:
        """How many requests were sent and not answered."""
        return len(self._pending) - len(self._outgoing)

    def feed(self, data: bytes) -> None:
        """Take bytes from the server, cut anywhere, and run the callbacks of the answers that they complete.

        Raises:
            SFTPProtocolError: The server broke the protocol. All that was pending has failed with it.
        """
        if self.ended is not None:
            return
        if self._missing > len(data):
            self._missing -= len(data)
            self._parts.append(data)
            return
        if self._buffer:
            data = b"".join((self._buffer, *self._parts, data))
            self._parts.clear()
        self._missing = 0
        place = 0
        size = len(data)
        try:
            while size - place >= 4:
                length = packets.unpack_u32(data, place)[0]
                if not 5 <= length <= self._packet_bytes:
                    raise Malformed(self._bad_length(data[place : place + 4], length))
                stop = place + 4 + length
                if stop > size:
                    self._missing = stop - size
                    break
                self._packet(data, place + 4, stop)
                if self.ended is not None:  # a callback may have ended it
                    return
                place = stop
        except Malformed as fault:
            error = SFTPProtocolError(f"{self._host}: not SFTP version 3: {fault}", host=self._host)
            self.end(error)
            raise error from None
        except BaseException:  # an interrupt in a callback: what was read and what was not is no longer known
            self.end(SFTPConnectionLost(f"{self._host}: interrupted", host=self._host))
            raise
        self._buffer = data[place:]

    def end(self, error: Exception) -> None:
        """Close the session: everything pending fails with that error, and nothing is sent or taken any more."""
        if self.ended is not None:
            return
        self.ended = error
        self._outgoing.clear()
        self._parts.clear()
        self._buffer = b""
        self._bytes = self.bytes_out = 0
        pending, self._pending = self._pending, {}
        for _, _, _, owner in pending.values():
            self._fail(owner, error)

    # -- requests ----------------------------------------------------------------------------------------------------

    def open(
        self,
        path: bytes,
        callback: Callable[[Answer], None],
        owner: Owner,
        how: bytes = packets.OPEN_FOR_READING,
    ) -> None:
        """OPEN, for reading or as :func:`~asyncworker.sftp.packets.open_tail` says; the answer is a handle."""
        self._request_text(Kind.OPEN, path, Kind.HANDLE, callback, owner, how)

    def close(self, handle: bytes, callback: Callable[[Answer], None], owner: Owner) -> None:
        """CLOSE a file or a folder; the answer is a Status."""
        self._request_text(Kind.CLOSE, handle, Kind.STATUS, callback, owner)

    def read(self, handle: bytes, offset: int, length: int, callback: Callable[[Answer], None], owner: Owner) -> None:
        """READ; the answer is at most ``length`` bytes, perhaps fewer, or Status EOF."""
        self._send(packets.read_packet(self._expect(Kind.DATA, callback, owner, length), handle, offset, length))

    def fstat(self, handle: bytes, callback: Callable[[Answer], None], owner: Owner) -> None:
        """FSTAT; the answer is Attributes."""
        self._request_text(Kind.FSTAT, handle, Kind.ATTRS, callback, owner)

    def stat(self, path: bytes, callback: Callable[[Answer], None], owner: Owner) -> None:
        """STAT, through links; the answer is Attributes."""
        self._request_text(Kind.STAT, path, Kind.ATTRS, callback, owner)

    def lstat(self, path: bytes, callback: Callable[[Answer], None], owner: Owner) -> None:
        """LSTAT, of a link itself; the answer is Attributes."""
        self._request_text(Kind.LSTAT, path, Kind.ATTRS, callback, owner)

    def opendir(self, path: bytes, callback: Callable[[Answer], None], owner: Owner) -> None:
        """OPENDIR; the answer is a handle."""
        self._request_text(Kind.OPENDIR, path, Kind.HANDLE, callback, owner)

    def readdir(self, handle: bytes, callback: Callable[[Answer], None], owner: Owner) -> None:
        """READDIR; the answer is a tuple of Name, or Status EOF."""
        self._request_text(Kind.READDIR, handle, Kind.NAME, callback, owner)

    def readlink(self, path: bytes, callback: Callable[[Answer], None], owner: Owner) -> None:
        """READLINK; the answer is a tuple of one Name: where the link leads to."""
        self._request_text(Kind.READLINK, path, Kind.NAME, callback, owner)

    def realpath(self, path: bytes, callback: Callable[[Answer], None], owner: Owner) -> None:
        """REALPATH; the answer is a tuple of one Name: the absolute path."""
        self._request_text(Kind.REALPATH, path, Kind.NAME, callback, owner)

    @property
    def tells_space(self) -> bool:
        """Whether :meth:`statvfs` may be called."""
        return self._extensions.get(_STATVFS_EXTENSION) == b"2"

    def statvfs(self, path: bytes, callback: Callable[[Answer], None], owner: Owner) -> None:
        """Ask for the file system of a path; only where :attr:`tells_space`. The answer is FileSystem."""

        def take(answer: bytes | Status) -> None:
            callback(answer if isinstance(answer, Status) else packets.parse_file_system(answer))

        tail = packets.string_bytes(path)
        self._request_text(Kind.EXTENDED, _STATVFS_EXTENSION, Kind.EXTENDED_REPLY, take, owner, tail)

    def check_file(
        self, path: bytes, digests: bytes, offset: int, length: int, callback: Callable[[Answer], None], owner: Owner
    ) -> None:
        """Ask for one digest of a range of a file, to its end where the length is 0; the answer is the reply's bytes.

        Few servers name this extension among those that they offer: others answer "unsupported".
        """
        tail = packets.string_bytes(path, digests) + packets.range_to_check(offset, length)
        self._request_text(Kind.EXTENDED, _CHECK_FILE_EXTENSION, Kind.EXTENDED_REPLY, callback, owner, tail)

    # -- requests that change something; the answer is a Status, OK among them ---------------------------------------

    @property
    def renames_over(self) -> bool:
        """Whether :meth:`rename` replaces a file that is there."""
        return self._extensions.get(_POSIX_RENAME_EXTENSION) == b"1"

    def forget_renames_over(self) -> None:
        """Take that the server offers a rename that replaces, and does not know it."""
        self._extensions.pop(_POSIX_RENAME_EXTENSION, None)

    @property
    def flushes(self) -> bool:
        """Whether :meth:`fsync` may be called."""
        return self._extensions.get(_FSYNC_EXTENSION) == b"1"

    def write(
        self,
        handle: bytes,
        offset: int,
        data: bytes | memoryview,
        callback: Callable[[Answer], None],
        owner: Owner,
    ) -> None:
        """WRITE, of at most ``write_bytes``."""
        request_id = self._expect(Kind.STATUS, callback, owner, len(data))
        self._send(packets.write_packet(request_id, handle, offset, data))

    def set_attributes(
        self, handle: bytes, attributes: bytes, callback: Callable[[Answer], None], owner: Owner
    ) -> None:
        """FSETSTAT, of an open file."""
        self._request_text(Kind.FSETSTAT, handle, Kind.STATUS, callback, owner, attributes)

    def set_path_attributes(
        self, path: bytes, attributes: bytes, callback: Callable[[Answer], None], owner: Owner
    ) -> None:
        """SETSTAT, of what a path leads to."""
        self._request_text(Kind.SETSTAT, path, Kind.STATUS, callback, owner, attributes)

    def symlink(self, first: bytes, second: bytes, callback: Callable[[Answer], None], owner: Owner) -> None:
        """SYMLINK. Section 6.12 has the link's path first; OpenSSH, and most servers after it, what it leads to."""
        self._request_text(Kind.SYMLINK, first, Kind.STATUS, callback, owner, packets.string_bytes(second))

    def remove(self, path: bytes, callback: Callable[[Answer], None], owner: Owner) -> None:
        """REMOVE, of what is no folder."""
        self._request_text(Kind.REMOVE, path, Kind.STATUS, callback, owner)

    def mkdir(self, path: bytes, mode: int | None, callback: Callable[[Answer], None], owner: Owner) -> None:
        """MKDIR."""
        self._request_text(Kind.MKDIR, path, Kind.STATUS, callback, owner, packets.attributes_bytes(mode=mode))

    def rmdir(self, path: bytes, callback: Callable[[Answer], None], owner: Owner) -> None:
        """RMDIR, of an empty folder."""
        self._request_text(Kind.RMDIR, path, Kind.STATUS, callback, owner)

    def rename(self, old: bytes, new: bytes, callback: Callable[[Answer], None], owner: Owner) -> None:
        """RENAME, which replaces nothing; as ``posix-rename@openssh.com``, where that is offered, it does."""
        if self.renames_over:
            tail = packets.string_bytes(old, new)
            self._request_text(Kind.EXTENDED, _POSIX_RENAME_EXTENSION, Kind.STATUS, callback, owner, tail)
        else:
            self.rename_plain(old, new, callback, owner)

    def rename_plain(self, old: bytes, new: bytes, callback: Callable[[Answer], None], owner: Owner) -> None:
        """RENAME of version 3: fails where the new name is taken."""
        self._request_text(Kind.RENAME, old, Kind.STATUS, callback, owner, packets.string_bytes(new))

    def fsync(self, handle: bytes, callback: Callable[[Answer], None], owner: Owner) -> None:
        """Flush an open file to the server's disk; only where :attr:`flushes`."""
        tail = packets.string_bytes(handle)
        self._request_text(Kind.EXTENDED, _FSYNC_EXTENSION, Kind.STATUS, callback, owner, tail)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _request_text(
        self, kind: int, text: bytes, answer: int, callback: Callable[[Answer], None], owner: Owner, tail: bytes = b""
    ) -> None:
        self._send(packets.text_packet(kind, self._expect(answer, callback, owner), text, tail))

    def _expect(self, answer: int, callback: Callable[[Answer], None], owner: Owner, data_bytes: int = 0) -> int:
        if self.ended is not None:
            raise SFTPConnectionLost(f"{self._host}: the session is over: {self.ended}", host=self._host)
        request_id = self._next_id
        while request_id in self._pending:  # only after four billion requests
            request_id = (request_id + 1) & 0xFFFFFFFF
        self._next_id = (request_id + 1) & 0xFFFFFFFF
        self._pending[request_id] = (answer, data_bytes, callback, owner)
        self._bytes += data_bytes
        return request_id

    def _send(self, packet: bytes) -> None:
        self._outgoing.append(packet)
        if len(self._outgoing) == 1:
            self._wake()

    def _packet(self, data: bytes, place: int, stop: int) -> None:
        kind = data[place]
        if kind == Kind.VERSION:
            self._version(data, place + 1, stop)
            return
        request_id = packets.unpack_u32(data, place + 1)[0]
        expected = self._pending.pop(request_id, None)
        if expected is None:
            raise Malformed(f"an answer of type {kind} to request {request_id}, which is not pending")
        wanted, data_bytes, callback, owner = expected
        self._bytes -= data_bytes
        self.bytes_out -= data_bytes
        try:
            if kind != wanted and kind != Kind.STATUS:
                raise Malformed(f"an answer of type {kind} where {wanted} was due")
            answer = _PARSERS[kind](data, place + 5, stop)
            if kind == Kind.DATA and not 0 < len(answer) <= data_bytes:
                raise Malformed(f"{len(answer)} bytes of data where at most {data_bytes} were asked for")
            if kind == Kind.STATUS and wanted != Kind.STATUS and answer.code == packets.OK:
                raise Malformed(f"success without the answer of type {wanted} that was due")
        except Malformed:
            self._pending[request_id] = expected  # so that its owner is told with the others
            raise
        try:
            callback(answer)
        except Malformed:
            self._pending[request_id] = expected
            raise
        except Exception as error:
            self._fail(owner, error)

    def _version(self, data: bytes, place: int, stop: int) -> None:
        if self._ready or self._pending:
            raise Malformed("a second VERSION")
        version, extensions = packets.parse_version(data, place, stop)
        if version != SFTP_VERSION:
            raise Malformed(f"the server speaks version {version}")
        self._extensions = extensions
        if extensions.get(_LIMITS_EXTENSION) == b"1":
            self._request_text(
                Kind.EXTENDED, _LIMITS_EXTENSION, Kind.EXTENDED_REPLY, self._limits, _LimitsOwner(self.end)
            )
        else:
            self._become_ready()

    def _limits(self, answer: bytes | Status) -> None:
        if not isinstance(answer, Status):
            self.limits = packets.parse_limits(answer)
            if self.limits.read_bytes:
                self.read_bytes = min(self.limits.read_bytes, _READ_BYTES_MAX, self._largest)
            if self.limits.write_bytes:
                self.write_bytes = min(self.limits.write_bytes, _WRITE_BYTES_MAX, self._largest)
            self._packet_bytes = max(_PACKET_BYTES, self.read_bytes + _ROOM_BYTES)
        self._become_ready()

    def _become_ready(self) -> None:
        self._ready = True
        self._on_ready()

    def _bad_length(self, head: bytes, length: int) -> str:
        if not self._ready and head.isascii() and head.decode("ascii").isprintable():
            return f"text ({head!r}...) in place of packets; does a start-up script of that login print something?"
        return f"a packet of {length} bytes; 5 to {self._packet_bytes} are allowed"

    def _fail(self, owner: Owner, error: Exception) -> None:
        try:
            owner.fail(error)
        except Exception:
            logger.exception("%s: could not report that a request failed: %s", self._host, error)


class _LimitsOwner:
    """Ends the session where the very first request fails."""

    def __init__(self, end: Callable[[Exception], None]) -> None:
        self._end = end

    def fail(self, error: Exception) -> None:
        self._end(error if isinstance(error, SFTPError) else SFTPError(f"the session could not be set up: {error}"))
