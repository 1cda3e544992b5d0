"""One SFTP session on the loop: a state machine and a transport, and one flush of all requests a turn of the loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from asyncworker.errors import (
    SFTPConnectError,
    SFTPConnectionLost,
    SFTPError,
    SFTPFileNotFound,
    SFTPPermissionDenied,
    SFTPProtocolError,
)
from asyncworker.sftp import packets
from asyncworker.sftp.options import Options
from asyncworker.sftp.packets import Status
from asyncworker.sftp.protocol import SFTPProtocol
from asyncworker.sftp.transports import Connect, Transport

__all__ = ["Released", "Session", "refusal"]

#: Handles that a server may want for itself, and those that a lost CLOSE has left behind.
_SPARE_HANDLES = 5
#: In flight where the server does not name its limit of open handles.
_HANDLES_WITHOUT_LIMITS = 64
#: Sent to be written and not answered, on one session: more would only fill buffers.
_UNANSWERED_BYTES = 8 * 1024 * 1024


class Writer(Protocol):
    """What waits until a session has room for what it writes."""

    def go_on(self) -> None:
        """Write on."""


class Session:
    """A session that is ready for requests. Made by :meth:`open`; used on one loop.

    Attributes:
        protocol: Where requests are made.
        address: The server, for messages.
        capacity: How many files may be open on it at once.
        in_flight: How many are; counted by whoever gives out the session.
    """

    def __init__(self, address: str, on_lost: Callable[[Session], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._transport: Transport | None = None
        self._flushing = False
        self._early: list[bytes] = []
        self.address = address
        self.protocol = SFTPProtocol(self._become_ready, self._wake, host=address)
        self.capacity = 0
        self.in_flight = 0
        self._unanswered = 0
        self._writers: deque[Writer] = deque()

    @classmethod
    async def open(cls, options: Options, connect: Connect, on_lost: Callable[[Session], None]) -> Session:
        """Connect, and agree on version and limits.

        Args:
            options: Where to and how.
            connect: The kind of transport.
            on_lost: Called once if a session that was returned ends without being closed.

        Raises:
            SFTPConnectError: Not ready within ``options.connect_timeout_s``, or any cause that the transport knows.
            SFTPProtocolError: What answers does not speak SFTP version 3.
        """
        session = cls(options.address, on_lost)
        try:
            async with asyncio.timeout(options.connect_timeout_s):
                session._transport = await connect(options, session)
                session.protocol.start()
                await session._ready
        except BaseException as error:
            session._abandon()
            if session._transport is not None:  # a process, say, that the loop must see the end of
                await session._transport.close()
            if isinstance(error, TimeoutError):
                raise SFTPConnectError(
                    f"{options.address}: no SFTP session within {options.connect_timeout_s:g} s", host=options.address
                ) from None
            raise
        session.capacity = _capacity(session.protocol.limits, options.in_flight)
        return session

    @property
    def alive(self) -> bool:
        """Whether requests can be made."""
        return self.protocol.ended is None

    @property
    def server_version(self) -> str:
        """The identification that the server's SSH sent; empty where the transport does not tell."""
        return "" if self._transport is None else self._transport.server_version

    # -- what is written ---------------------------------------------------------------------------------------------

    def may_write(self, writer: Writer) -> bool:
        """Whether there is room; if not, that writer is told when there is, or when the session is over."""
        if self._unanswered < _UNANSWERED_BYTES or not self.alive:
            return True
        self._writers.append(writer)
        return False

    def writes(self, size: int) -> None:
        """Count bytes that are on their way."""
        self._unanswered += size

    def wrote(self, size: int) -> None:
        """Count bytes whose answer has come, or never will."""
        self._unanswered -= size
        while self._writers and (self._unanswered < _UNANSWERED_BYTES or not self.alive):
            self._writers.popleft().go_on()

    # -- called by the transport -------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take bytes from the server."""
        try:
            self.protocol.feed(data)
        except SFTPProtocolError as error:
            self._end(error)
        else:
            if self.protocol.ended is not None:
                self._end(self.protocol.ended)

    def lost(self, error: Exception | None) -> None:
        """Take that the connection is gone."""
        if isinstance(error, SFTPError):  # the transport knows better
            self._end(error)
            return
        why = f": {error}" if error and str(error) else ""
        self._end(SFTPConnectionLost(f"{self.address}: the connection was lost{why}", host=self.address))

    # -- ends --------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close politely; what is still pending fails. Does not call ``on_lost``."""
        self._on_lost = _nobody
        self.protocol.end(SFTPConnectionLost(f"{self.address}: the session was closed", host=self.address))
        if self._transport is not None:
            await self._transport.close()

    def _end(self, error: Exception) -> None:
        self.protocol.end(error)
        if not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # read: whoever opens it may have been cancelled
            return
        if self._transport is not None:
            self._transport.abort()
        on_lost, self._on_lost = self._on_lost, _nobody
        on_lost(self)

    def _abandon(self) -> None:
        self._on_lost = _nobody
        self.protocol.end(SFTPConnectionLost(f"{self.address}: not opened", host=self.address))
        if self._transport is not None:
            self._transport.abort()
        if not self._ready.done():
            self._ready.cancel()

    # -- sending -----------------------------------------------------------------------------------------------------

    def _become_ready(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)

    def _wake(self) -> None:
        # Everything that this turn of the loop asks for leaves in one piece: the biggest single gain measured.
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        data = self.protocol.take_outgoing()
        if data and self._transport is not None:
            try:
                self._transport.write(data)
            except OSError as error:  # the channel is closed already, and has not said so yet
                self.lost(error)


#: Takes back a job's place on a session: called once, with both.
Released = Callable[[Session, Any], None]


def refusal(status: Status, action: str, address: str, path: str | None) -> SFTPError:
    """Make the error of a request that the server answered with a Status.

    Args:
        status: The answer.
        action: What was asked, as in "cannot ...".
        address: The server.
        path: The remote path.
    """
    kind: type[SFTPError] = SFTPError
    if status.code == packets.NO_SUCH_FILE:
        kind = SFTPFileNotFound
    elif status.code == packets.PERMISSION_DENIED:
        kind = SFTPPermissionDenied
    return kind(f"{address}: cannot {action} {path}: {status}", host=address, path=path)


def _capacity(limits: packets.Limits, wanted: int) -> int:
    if limits == packets.Limits():
        return min(wanted, _HANDLES_WITHOUT_LIMITS)
    if limits.open_handles == 0:  # it has no limit
        return wanted
    return max(1, min(wanted, limits.open_handles - _SPARE_HANDLES))


def _nobody(_: Session) -> None:
    """No one to tell."""
