"""One request and its one answer, awaited through a future."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from asyncworker.sftp import packets
from asyncworker.sftp.packets import Status
from asyncworker.sftp.session import Released, Session, refusal

__all__ = ["Command", "Request"]

T = TypeVar("T")


class Request(Generic[T]):
    """A job of a single round trip.

    Args:
        ask: Sends it, with :meth:`answered` as its callback and the request as its owner.
        action: What it does, for messages.
        path: The remote path.
        on_released: Called once, when the place on the session is free again.
    """

    def __init__(
        self, ask: Callable[[Session, Request[T]], None], action: str, path: str, on_released: Released
    ) -> None:
        self.future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._ask = ask
        self._action = action
        self._path = path
        self._on_released = on_released
        self._session: Session | None = None

    def start(self, session: Session) -> None:
        """Send it."""
        self._session = session
        self._ask(session, self)

    def answered(self, answer: T | Status) -> None:
        """Take the answer."""
        assert self._session is not None
        if isinstance(answer, Status):
            self.fail(refusal(answer, self._action, self._session.address, self._path))
            return
        if not self.future.done():
            self.future.set_result(answer)
        self._release()

    def fail(self, error: Exception) -> None:
        """Take that there will be no answer."""
        if not self.future.done():
            self.future.set_exception(error)
        self._release()

    def abandon(self) -> None:
        """Nobody waits any more; the place is free when the answer has come."""
        self.future.cancel()

    def _release(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._on_released(session, self)


class Command(Request[None]):
    """A request that changes something: its answer is a Status, and OK is what one hopes for."""

    def answered(self, answer: Status | None) -> None:
        """Take the answer."""
        if isinstance(answer, Status) and answer.code != packets.OK:
            super().answered(answer)
        else:
            super().answered(None)
