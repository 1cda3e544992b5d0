"""The Redis transport of the async worker: kombu's, with batches. ``broker_transport`` names it; URLs stay the same.

What is stored stays kombu's own, so stock workers and clients share the queues with it, and take over what it leaves.
"""

from __future__ import annotations

import logging
from typing import Any

from kombu.transport import redis as stock

from asyncworker.worker.channel import DEFAULT_LEASE_S, Channel
from asyncworker.worker.fast import LEASE_OPTION
from asyncworker.worker.gate import start_gate
from asyncworker.worker.guarded import RedisTransport, SocketURLs
from asyncworker.worker.ownership import BEATS_A_LEASE, OwnershipLost

__all__ = ["Poller", "SocketTransport", "Transport"]

logger = logging.getLogger(__name__)


#: For mypy, which knows half of its attributes.
_StockPoller: Any = stock.MultiChannelPoller


class Poller(_StockPoller):  # type: ignore[misc]
    """Polls the channels of one connection; before it waits, what was acknowledged is sent and held jobs begin."""

    def on_poll_start(self) -> None:
        """Ask for messages, then send the acknowledgements while the server looks for them."""
        try:
            super().on_poll_start()
        finally:
            for channel in self._channels:
                channel.qos.flush_acks()
            self._check_ownership()

    def _check_ownership(self) -> None:
        """Let jobs begin, unless their messages may have returned to the queue: this process may have been frozen."""
        for channel in self._channels:
            owner = channel.owner
            if owner is not None and start_gate.is_waited_for and not owner.is_certain:
                self._beat(channel)
                if not owner.lost and not owner.is_certain:
                    return
        start_gate.let_through()
        if any(channel.has_lost for channel in self._channels):
            raise OwnershipLost("this process was silent for too long, and has lost its messages")

    def beat(self) -> None:
        """Show that this process lives, and return the messages of those that do not."""
        for channel in self._channels:
            self._beat(channel)

    def _beat(self, channel: Channel) -> None:
        try:
            channel.beat()
        except channel.connection_errors as exc:
            logger.debug("no heartbeat: %s", exc)

    def register_waiter(self, channel: Channel, waiter: Any) -> None:
        """Poll a waiter's connection, too."""
        if waiter.connection._sock is None or (channel, waiter, waiter.command) not in self._chan_to_sock:
            waiter.sent_at_s = None
            self._register(channel, waiter, waiter.command)

    def on_readable(self, fileno: int) -> Any:
        """Read an answer; a waiter's also while nothing can be consumed, since it takes nothing."""
        channel, command = self._fd_to_chan.get(fileno, (None, ""))
        if channel is not None and command.startswith("BLMOVE"):
            return channel.handlers[command]()
        return super().on_readable(fileno)

    def maybe_restore_messages(self) -> None:
        """As kombu does from time to time; and those that a lost connection took along."""
        super().maybe_restore_messages()
        for channel in self._channels:
            if channel.active_queues:
                try:
                    channel.recover_lost()
                except channel.connection_errors as exc:
                    logger.debug("what was lost on its way is looked for later: %s", exc)

    def maybe_check_brpop_health(self) -> None:
        """Drop connections that died without a word."""
        super().maybe_check_brpop_health()
        for channel in self._channels:
            for waiter in channel.waiters if channel.health_check_interval else ():
                if waiter.is_overdue(channel.brpop_timeout + channel.health_check_interval):
                    logger.warning("Redis owes an answer for too long; the connection is dropped")
                    waiter.close()


class Transport(RedisTransport):
    """For ``redis://`` and ``rediss://``."""

    Channel = Channel
    collects_acks = True

    #: kombu's event loop, while it polls this.
    hub: Any = None
    #: Its timer of heartbeats.
    _beating: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have the hub poll it: from now on acknowledgements are collected, and jobs wait for theirs."""
        self.hub = loop
        start_gate.closed = True
        super().register_with_event_loop(connection, loop)
        if self._beating is not None:
            self._beating.cancel()
        lease_s = connection.client.transport_options.get(LEASE_OPTION, DEFAULT_LEASE_S)
        self._beating = loop.call_repeatedly(lease_s / BEATS_A_LEASE, self.cycle.beat)

    def wake_later(self, after_s: float) -> None:
        """Have the hub turn once more after that, whatever it waits for."""
        if self.hub is not None:
            self.hub.call_later(after_s, lambda: None)

    def close_connection(self, connection: Any) -> None:
        """Close it. Jobs do not wait for the next one."""
        if self.hub is not None:
            self.hub = None
            if self._beating is not None:
                self._beating.cancel()
            start_gate.open()
        super().close_connection(connection)


class SocketTransport(SocketURLs, Transport):
    """For ``redis+socket://``."""
