"""The wake-up of an idle worker: blocking commands that change nothing, a connection a queue key.

``BLMOVE key key RIGHT RIGHT`` answers when the list holds something, and moves its last element to where it was. So
nothing is on its way when a connection is cut, as a message is that BRPOP has taken out.
"""

from __future__ import annotations

import time
from typing import Any

__all__ = ["MOST_KEYS", "Waiter"]

#: With more keys than this the channel is not worth so many connections.
MOST_KEYS = 64


class Waiter:
    """Waits for one key. kombu's poller takes it for a Redis client: it has a ``connection`` and looks at no more."""

    def __init__(self, key: str, connection: Any) -> None:
        self.key = key
        self.connection = connection
        self.sent_at_s: float | None = None

    @property
    def command(self) -> str:
        """By which the poller knows it among the channel's connections."""
        return f"BLMOVE {self.key}"

    def is_overdue(self, after_s: float) -> bool:
        """Tell whether the server has owed an answer for longer."""
        return self.sent_at_s is not None and time.monotonic() - self.sent_at_s > after_s

    def wait(self, timeout_s: float) -> None:
        """Ask the server, unless it still owes an answer."""
        if self.sent_at_s is None:
            self.sent_at_s = time.monotonic()
            self.connection.send_command("BLMOVE", self.key, self.key, "RIGHT", "RIGHT", timeout_s)

    def read(self) -> bool:
        """Read the answer: whether something is there."""
        try:
            return self.connection.read_response() is not None
        finally:
            self.sent_at_s = None

    def close(self) -> None:
        """Drop the connection."""
        self.sent_at_s = None
        self.connection.disconnect()
