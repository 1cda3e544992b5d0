"""One SFTP session on the loop: a state machine and a transport, and one flush of all requests a turn of the loop."""

from __future__ import annotations

import asyncio
import posixpath
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
    SFTPTimeout,
)
from asyncworker.sftp import packets
from asyncworker.sftp.metered import MeteredProtocol
from asyncworker.sftp.options import Options
from asyncworker.sftp.packets import Status
from asyncworker.sftp.protocol import SFTPProtocol
from asyncworker.sftp.traffic import Traffic
from asyncworker.sftp.transports import Connect, Transport

__all__ = ["HANDLES_MAX", "Released", "Session", "refusal"]

#: Handles that a server may want for itself, and those that a lost CLOSE has left behind.
_SPARE_HANDLES = 5
#: Open at once where the server does not name its limit of open handles.
_HANDLES_WITHOUT_LIMITS = 64
#: Open at once where it allows more: one connection is not faster with more than that.
HANDLES_MAX = 256
#: Sent to be written and not answered, on one session: more would only fill buffers.
_UNANSWERED_BYTES = 8 * 1024 * 1024
#: The same where there is a limit of bytes a second, in requests of its size.
_WAITING_REQUESTS = 4
#: The clock of a connection looks so often within ``timeout_s``. It counts looks and not seconds: a loop that was
#: blocked, or a machine that slept, must not make a server's answers late.
_LOOKS = 10


class Writer(Protocol):
    """Writer that waits until a session has room for its data."""

    def go_on(self) -> None:
        """Write on."""


class Session:
    """A session that is ready for requests. Made by :meth:`open`; used on one loop.

    Attributes:
        protocol: Where requests are made.
        address: The server, for messages.
        capacity: How many files may be open on it at once.
        in_flight: How many are; counted by whoever gives out the session.
        opened_at: When it was ready, by the pool's clock; set by whoever has it opened.
        cut_requests: How many requests were on their way when it was lost.
    """

    def __init__(self, options: Options, traffic: Traffic, on_lost: Callable[[Session], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._transport: Transport | None = None
        self._flushing = False
        self._early: list[bytes] = []
        self._traffic = traffic
        self._timeout_s = options.timeout_s
        self._clock: asyncio.TimerHandle | None = None
        self._silent_looks = 0
        self._unsent = 0  # bytes that the transport had not passed on at the last look
        self._unanswered_max = min(_UNANSWERED_BYTES, options.window_bytes or _UNANSWERED_BYTES)
        self.address = options.address
        self.protocol = self._make_protocol(options, traffic)
        self.cut_requests = 0
        self.opened_at = 0.0
        self.capacity = 0
        self.in_flight = 0
        self._unanswered = 0
        self._writers: deque[Writer] = deque()

    @classmethod
    async def open(
        cls, options: Options, connect: Connect, traffic: Traffic, on_lost: Callable[[Session], None]
    ) -> Session:
        """Connect, and agree on version and limits.

        Args:
            options: Where to and how.
            connect: The kind of transport.
            traffic: Holds what all connections send to a limit.
            on_lost: Called once if a session that was returned ends without being closed.

        Raises:
            SFTPConnectError: Not ready within ``options.connect_timeout_s``, or any cause that the transport knows.
            SFTPProtocolError: What answers does not speak SFTP version 3.
        """
        session = cls(options, traffic, on_lost)
        traffic.join(session)
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
        session.capacity = _capacity(session.protocol.limits)
        return session

    def _make_protocol(self, options: Options, traffic: Traffic) -> SFTPProtocol:
        callbacks, bandwidth = (self._become_ready, self.wake), traffic.bandwidth
        if bandwidth is None:
            return SFTPProtocol(*callbacks, host=options.address, window_bytes=options.window_bytes)
        # What waits for bandwidth is ahead of all that comes later, what removes a file among it.
        self._unanswered_max = min(self._unanswered_max, _WAITING_REQUESTS * bandwidth.request_bytes)
        largest = min(bandwidth.request_bytes, options.window_bytes or bandwidth.request_bytes)
        return MeteredProtocol(bandwidth, *callbacks, host=options.address, window_bytes=largest)

    @property
    def alive(self) -> bool:
        """Whether requests can be made."""
        return self.protocol.ended is None

    @property
    def server_version(self) -> str:
        """The identification that the server's SSH sent; empty where the transport does not tell."""
        return "" if self._transport is None else self._transport.server_version

    @property
    def requests_out(self) -> int:
        """Requests that were sent and not answered."""
        return self.protocol.requests_out

    @property
    def bytes_out(self) -> int:
        """Bytes that those ask for, or carry."""
        return self.protocol.bytes_out

    # -- what is written ---------------------------------------------------------------------------------------------

    def may_write(self, writer: Writer) -> bool:
        """Return whether there is room; if not, notify the writer when there is, or when the session is closed."""
        if self._unanswered < self._unanswered_max or not self.alive:
            return True
        self._writers.append(writer)
        return False

    def writes(self, size: int) -> None:
        """Count bytes that are on their way."""
        self._unanswered += size

    def wrote(self, size: int) -> None:
        """Count bytes whose answer has come, or never will."""
        self._unanswered -= size
        while self._writers and (self._unanswered < self._unanswered_max or not self.alive):
            self._writers.popleft().go_on()

    # -- called by the transport -------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take bytes from the server."""
        self._silent_looks = 0
        try:
            self.protocol.feed(data)
        except SFTPProtocolError as error:
            self._end(error)
        else:
            if self.protocol.ended is not None:
                self._end(self.protocol.ended)
            elif self._traffic.held:
                self._traffic.release()

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
        self._stop()
        if self._transport is not None:
            await self._transport.close()

    def _end(self, error: Exception) -> None:
        self.cut_requests = max(self.cut_requests, self.protocol.requests_out)
        self.protocol.end(error)
        self._stop()
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
        self._stop()
        if self._transport is not None:
            self._transport.abort()
        if not self._ready.done():
            self._ready.cancel()

    def _stop(self) -> None:
        self._traffic.leave(self)
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _look(self) -> None:
        """The clock of the connection: give it up when nothing has come for too long while requests are open."""
        self._clock = None
        if not self.protocol.requests_out or self._transport is None:
            return  # the next request starts it again
        unsent = self._transport.unsent_bytes
        # What is slow to leave is under way all the same: no answer is due before it has arrived.
        self._silent_looks = 0 if unsent < self._unsent else self._silent_looks + 1
        self._unsent = unsent
        if self._silent_looks <= _LOOKS:
            self._clock = self._loop.call_later(self._timeout_s / _LOOKS, self._look)
            return
        self._end(
            SFTPTimeout(
                f"{self.address}: no answer for {self._timeout_s:g} s with {self.protocol.requests_out} requests open;"
                " the connection was given up",
                host=self.address,
            )
        )

    # -- sending -----------------------------------------------------------------------------------------------------

    def _become_ready(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)

    def wake(self) -> None:
        """Send what waits, in this turn of the loop."""
        # Everything that this turn of the loop asks for leaves in one piece: the biggest single gain measured.
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        traffic = self._traffic
        data = self.protocol.take_outgoing(traffic.requests_room, traffic.bytes_room())
        if self.protocol.waits_to_send:
            traffic.hold(self)
        if data and self._transport is not None:
            if self._clock is None and self._ready.done():
                self._silent_looks = self._unsent = 0
                self._clock = self._loop.call_later(self._timeout_s / _LOOKS, self._look)
            try:
                self._transport.write(data)
            except OSError as error:  # the channel is closed already, and has not said so yet
                self.lost(error)


#: Takes back a job's place on a session: called once, with both.
Released = Callable[[Session, Any], None]


def refusal(status: Status, action: str, address: str, path: str | None, *, creates: bool = False) -> SFTPError:
    """Make the error of a request that the server answered with a Status.

    Args:
        status: The answer.
        action: What was asked, as in "cannot ...".
        address: The server.
        path: The remote path.
        creates: Whether the file was to be made: what does not exist is its folder then.
    """
    kind: type[SFTPError] = SFTPError
    hint = ""
    if status.code == packets.NO_SUCH_FILE:
        kind = SFTPFileNotFound
        if creates and path is not None:
            hint = f"; does the folder {posixpath.dirname(path) or '.'} exist?"
    elif status.code == packets.PERMISSION_DENIED:
        kind = SFTPPermissionDenied
    return kind(f"{address}: cannot {action} {path}: {status}{hint}", host=address, path=path)


def _capacity(limits: packets.Limits) -> int:
    if limits == packets.Limits():
        return _HANDLES_WITHOUT_LIMITS
    if limits.open_handles == 0:  # it has no limit
        return HANDLES_MAX
    return max(1, min(HANDLES_MAX, limits.open_handles - _SPARE_HANDLES))


def _nobody(_: Session) -> None:
    """No one to tell."""
