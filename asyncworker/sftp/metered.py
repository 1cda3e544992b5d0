"""The state machine of a session whose bytes are paid for, where a pool has a limit of bytes a second."""

from __future__ import annotations

from typing import Any

from asyncworker.sftp import packets
from asyncworker.sftp.bandwidth import Bandwidth
from asyncworker.sftp.packets import Kind
from asyncworker.sftp.protocol import SFTPProtocol

__all__ = ["MeteredProtocol"]


class MeteredProtocol(SFTPProtocol):
    """One session.

    Args:
        bandwidth: Where all sessions of the pool pay.
        arguments: As for :class:`SFTPProtocol`.
    """

    def __init__(self, bandwidth: Bandwidth, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._bandwidth = bandwidth

    def take_outgoing(self, requests: int | None = None, window_bytes: int | None = None) -> bytes:
        """Return and pay what waits to be sent, as much as there is room and bandwidth for."""
        outgoing = self._outgoing
        taken: list[bytes] = []
        budget = self._bandwidth.room()
        while outgoing and (requests is None or len(taken) < requests):
            packet = outgoing[0]
            size = packets.payload_bytes(packet)
            cost = len(packet) + (size if packet[4] == Kind.READ else 0)
            if cost > budget or (window_bytes is not None and size > window_bytes):
                break
            budget -= cost
            self._bandwidth.spend(cost)
            if window_bytes is not None:
                window_bytes -= size
            self.bytes_out += size
            taken.append(outgoing.popleft())
        return b"".join(taken)

    def feed(self, data: bytes) -> None:
        """Take bytes from the server, and pay them."""
        self._bandwidth.spend(len(data))
        super().feed(data)

    def _packet(self, data: bytes, place: int, stop: int) -> None:
        if data[place] != Kind.VERSION:
            request = self._pending.get(packets.unpack_u32(data, place + 1)[0])
            if request is not None and request[0] == Kind.DATA:
                self._bandwidth.give_back(request[1])  # what has come instead is paid already
        super()._packet(data, place, stop)
