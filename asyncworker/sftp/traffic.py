"""Requests and bytes on their way over all connections of a pool, held to a limit where they are sent."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Protocol

from asyncworker.sftp.bandwidth import Bandwidth

__all__ = ["Sender", "Traffic"]


class Sender(Protocol):
    """A session, as far as its traffic is concerned."""

    @property
    def requests_out(self) -> int:
        """Requests that were sent and not answered."""

    @property
    def bytes_out(self) -> int:
        """Bytes that those ask for, or carry."""

    def wake(self) -> None:
        """Send what waits, in this turn of the loop."""


class Traffic:
    """The limit that all sessions of a pool share. Used on one loop.

    Nothing is counted request by request: a session is asked for its numbers when it sends.

    Args:
        requests: Maximum number of requests without an answer.
        window_bytes: Maximum number of bytes asked for, or sent and not answered; ``None``: no limit.
        bandwidth: What may be sent and asked for in a time; ``None``: no limit.
    """

    def __init__(self, requests: int, window_bytes: int | None, bandwidth: Bandwidth | None = None) -> None:
        self.requests = requests
        self.bandwidth = bandwidth
        self._timer: asyncio.TimerHandle | None = None  # until there is bandwidth again: one, whoever waits for it
        self.window_bytes = window_bytes
        self.held: OrderedDict[Sender, None] = OrderedDict()
        """Sessions that have requests to send and no room for them; served in turn."""
        self._senders: list[Sender] = []

    def join(self, sender: Sender) -> None:
        """Count a session."""
        self._senders.append(sender)

    def leave(self, sender: Sender) -> None:
        """Count a session no more; its share is free for the others."""
        if sender in self._senders:
            self._senders.remove(sender)
        self.held.pop(sender, None)
        if not self._senders and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.release()

    @property
    def requests_out(self) -> int:
        """Requests on their way."""
        return sum(sender.requests_out for sender in self._senders)

    @property
    def requests_room(self) -> int:
        """How many more requests may be sent."""
        return self.requests - self.requests_out

    def bytes_room(self) -> int | None:
        """How many more bytes may be asked for or sent; ``None``: any number.

        A request that is larger than the whole window may go alone, so the room is never reported as too small then.
        """
        if self.window_bytes is None:
            return None
        return self.window_bytes - sum(sender.bytes_out for sender in self._senders)

    def hold(self, sender: Sender) -> None:
        """Wake that session when there is room again."""
        self.held[sender] = None
        if self.bandwidth is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.bandwidth.wait_s(), self._have_bandwidth)

    def _have_bandwidth(self) -> None:
        self._timer = None
        self.release()

    def release(self) -> None:
        """Wake the sessions that were held; those that find no room are held again, at the end of the line."""
        if self.held and self.requests_room > 0:
            held, self.held = self.held, OrderedDict()
            for sender in held:
                sender.wake()
