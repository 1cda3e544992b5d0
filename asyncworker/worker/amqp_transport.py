"""The AMQP transport of the async worker: kombu's py-amqp one, with fewer system calls.

It reads ahead, hands over what has come in one turn of the hub, and sends the acknowledgements of a turn in one write:
each call is a moment in which this thread gives the interpreter to the loop's, and has to get it back.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from struct import unpack_from
from typing import Any

from amqp.exceptions import RecoverableConnectionError
from amqp.transport import SSLTransport as StockSSL
from amqp.transport import TCPTransport as StockTCP
from kombu.transport import pyamqp as stock

from asyncworker.worker.gate import start_gate
from asyncworker.worker.guarded import AMQPChannel, AMQPConnection, AMQPTransport

__all__ = ["SSLTransport", "Transport"]

logger = logging.getLogger(__name__)

#: Read at once, where there is so much: the frames of some ten messages.
READ_AHEAD_BYTES = 16384
#: Messages in one turn of the hub.
MOST_A_TURN = 100
#: Bytes of acknowledgements that are sent without waiting for the hub's next turn.
MOST_KEPT_BYTES = 65536
_HEADER_BYTES = 7


class _Buffered:
    """A socket of py-amqp's that is read ahead of what is asked for, and may keep what is to be written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Whether what is written now may wait.
        self.keeps = False
        self._kept = bytearray()

    def _setup_transport(self) -> None:
        super()._setup_transport()  # type: ignore[misc]
        receive = self._quick_recv
        self._quick_recv: Callable[[int], bytes] = lambda size: receive(max(size, READ_AHEAD_BYTES))

    @property
    def holds_frame(self) -> bool:
        """Whether a frame was read to its end already."""
        buffer: bytes = self._read_buffer  # type: ignore[attr-defined]
        return len(buffer) > _HEADER_BYTES and len(buffer) > _HEADER_BYTES + unpack_from(">I", buffer, 3)[0]

    @property
    def has_more(self) -> bool:
        """Whether something was received that the hub cannot see."""
        return self.holds_frame

    def write(self, data: bytes) -> None:
        """Write, or keep it for the next write that may not wait."""
        if self.keeps or self._kept:
            self._kept += data
            if self.keeps and len(self._kept) < MOST_KEPT_BYTES:
                return
            data, self._kept = bytes(self._kept), bytearray()
        super().write(data)  # type: ignore[misc]

    def flush(self) -> None:
        """Write what was kept."""
        if self._kept:
            self.write(b"")


class _TCP(_Buffered, StockTCP):
    """Without TLS."""


class _SSL(_Buffered, StockSSL):
    @property
    def has_more(self) -> bool:
        """Whether something was received that the hub cannot see."""
        return super().has_more or self.sock.pending() > 0  # type: ignore[union-attr]


class Channel(AMQPChannel):
    """A channel whose acknowledgements are collected while the hub polls its connection."""

    def basic_ack(self, delivery_tag: Any, multiple: bool = False, **options: Any) -> Any:
        """Acknowledge, with the others of this turn."""
        if self.connection is None:
            raise RecoverableConnectionError("the connection of this delivery is closed")
        transport = self.connection.transport
        transport.keeps = self.connection.hub is not None
        try:
            return super().basic_ack(delivery_tag, multiple=multiple, **options)
        finally:
            transport.keeps = False


class Connection(AMQPConnection):
    """A connection that takes frames from memory while there are some."""

    Channel = Channel
    #: The hub that polls it.
    hub: Any = None

    def Transport(
        self,
        host: str,
        connect_timeout: float,
        ssl: Any = False,
        read_timeout: float | None = None,
        write_timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """Make its socket."""
        kind = _SSL if ssl else _TCP
        timeouts = {"connect_timeout": connect_timeout, "read_timeout": read_timeout, "write_timeout": write_timeout}
        return kind(host, ssl=ssl, **timeouts, **options)

    def blocking_read(self, timeout: float | None = None) -> Any:
        """Read one frame; returns whether it ended a message or an answer."""
        if self.transport.holds_frame:
            return self.on_inbound_frame(self.transport.read_frame())
        return super().blocking_read(timeout)

    def flush(self) -> None:
        """Send the acknowledgements. Those that a lost connection does not take are lost: their messages come again."""
        if not self.connected:
            return
        try:
            self.transport.flush()
        except self.connection_errors as exc:
            logger.warning("acknowledgements were lost with the connection: %r", exc)

    def on_tick(self) -> None:
        """Called by the hub before it waits: send the acknowledgements, and let begin what waits for them."""
        while True:
            self.flush()
            start_gate.let_through()
            if not (self.connected and self.transport.has_more):
                return
            self.receive()  # who waited for an answer has read on

    def receive(self) -> None:
        """Hand over what has come; of more than one turn's the hub sees what was not received yet."""
        for turn in itertools.count(1):
            if not self.connected:
                raise RecoverableConnectionError("Socket was disconnected")
            try:
                self.drain_events(timeout=0)
            except (TimeoutError, BlockingIOError, InterruptedError):
                return
            if turn >= MOST_A_TURN and not self.transport.has_more:
                return

    def leave_hub(self) -> None:
        """Collect nothing any more, and let begin what waits."""
        if self.hub is not None:
            self.hub.on_tick.discard(self.on_tick)
            self.hub = None
            start_gate.open()


class Transport(AMQPTransport):
    """For ``amqp://``."""

    Connection = Connection
    collects_acks = True

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have the hub poll it: from now on acknowledgements are collected, and jobs wait for theirs."""
        super().register_with_event_loop(connection, loop)
        start_gate.closed = True
        connection.hub = loop
        loop.on_tick.add(connection.on_tick)

    def close_connection(self, connection: Any) -> None:
        """Close it. Jobs do not wait for the next one."""
        connection.flush()
        connection.leave_hub()
        super().close_connection(connection)

    def _collect(self, connection: Any) -> None:
        if connection is not None:
            connection.leave_hub()
        super()._collect(connection)

    def on_readable(self, connection: Any, loop: Any) -> None:
        """Called by the hub."""
        connection.receive()


class SSLTransport(Transport, stock.SSLTransport):  # type: ignore[misc]
    """For ``amqps://``."""
