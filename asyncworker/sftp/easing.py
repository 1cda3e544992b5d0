"""Less load on a server that hangs up under it, or refuses another connection: quickly down, slowly up again."""

from __future__ import annotations

import asyncio
import logging

from asyncworker.clock import Clock
from asyncworker.errors import SFTPConnectionLost
from asyncworker.sftp.options import Options
from asyncworker.sftp.session import Session
from asyncworker.sftp.traffic import Traffic

__all__ = ["Easing"]

logger = logging.getLogger(__name__)

#: Requests on their way, over all connections, after one more connection was cut. Few steps: each costs what was cut.
_STEPS = (64, 8, 1)
#: A connection that is lost with fewer on its way was not lost because of them.
_LOAD = 8
#: Connections seldom die alone: those that die with the first one are one event with it.
_TOGETHER_S = 0.5
#: Quiet before the load goes up again; doubled each time that it had to go down.
_QUIET_S = 30.0
_QUIET_MAX_S = 3600.0


class Easing:
    """How many connections and requests there may be just now. Used on one loop.

    Args:
        options: What there may be at most.
        traffic: Its limit is set here.
        clock: Tells which events belong together.
    """

    def __init__(self, options: Options, traffic: Traffic, clock: Clock) -> None:
        self._options = options
        self._traffic = traffic
        self._clock = clock
        self._quiet_s = _QUIET_S
        self._eased_at = -_TOGETHER_S
        self._timer: asyncio.TimerHandle | None = None
        self._reported = False
        self.connections = options.connections
        """How many connections there may be."""

    def lost(self, session: Session, left: int) -> None:
        """Take that a connection was cut; marks the error of its requests as eased if the load goes down for it.

        Args:
            session: The connection.
            left: How many others live.
        """
        error = session.protocol.ended
        now = self._clock.monotonic()
        if not isinstance(error, SFTPConnectionLost):
            return
        if session.opened_at <= self._eased_at and now - self._eased_at < _TOGETHER_S:
            error.eased = True
            return
        limit = self._traffic.requests
        if session.cut_requests < max(3, min(_LOAD, limit)):
            return
        error.eased = True
        self._traffic.requests = next((step for step in _STEPS if step < limit), 1)
        self._down(1 if self._traffic.requests < _STEPS[0] else max(1, left), now)
        self._report("the server hung up under load", error)

    def not_made(self, left: int, some_live: bool, error: Exception) -> None:
        """Take that one more connection could not be made.

        Args:
            left: How many live, or are being made.
            some_live: Whether any of them live; otherwise, the last one to fail raises its error.
            error: Why.
        """
        self._down(left, self._clock.monotonic())
        if some_live:
            self._report("no further connection", error)
        else:
            logger.debug("%s: no connection yet: %s", self._options.address, error)

    def stop(self) -> None:
        """End the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _down(self, connections: int, now: float) -> None:
        self.connections = min(self.connections, connections)
        self._eased_at = now
        self.stop()
        self._timer = asyncio.get_running_loop().call_later(self._quiet_s, self._up)
        self._quiet_s = min(2 * self._quiet_s, _QUIET_MAX_S)

    def _up(self) -> None:
        self._timer = None
        options = self._options
        self.connections = min(options.connections, 2 * self.connections)
        self._traffic.requests = min(options.in_flight, 2 * self._traffic.requests)
        self._traffic.release()
        if self.connections < options.connections or self._traffic.requests < options.in_flight:
            self._timer = asyncio.get_running_loop().call_later(self._quiet_s, self._up)
        else:
            self._reported = False

    def _report(self, what: str, error: Exception) -> None:
        level = logging.DEBUG if self._reported else logging.WARNING
        self._reported = True
        logger.log(
            level,
            "%s: %s; going on with at most %d connections and %d requests at once (gentle=True starts with few): %s",
            self._options.address,
            what,
            self.connections,
            self._traffic.requests,
            error,
        )
