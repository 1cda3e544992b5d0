"""How a call of the pool becomes a job on a session: waited for, tried twice where that is safe, cancelled cleanly."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable
from typing import Protocol, TypeVar

from asyncworker.errors import SFTPConnectError, SFTPConnectionLost, SFTPError, SFTPFileNotFound
from asyncworker.sftp import packets
from asyncworker.sftp.connections import Connections
from asyncworker.sftp.names import remote_text
from asyncworker.sftp.options import Options
from asyncworker.sftp.placing import ProcedureJob, put_back
from asyncworker.sftp.request import Command
from asyncworker.sftp.session import Session

__all__ = ["Awaited", "Calls", "PathLike", "pause"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
PathLike = str | os.PathLike[str]

#: Before a second try. Connections seldom die alone: those that die with this one have to be seen dead first.
_PAUSE_S = 0.1
#: Of removing what a lost connection left on the server.
_CLEANING_TRIES = 5


class Awaited(Protocol[T]):
    """A job whose caller waits for its future."""

    future: asyncio.Future[T]

    def start(self, session: Session) -> None:
        """Begin on that session."""

    def fail(self, error: Exception) -> None:
        """Take that it cannot be done."""

    def abandon(self) -> None:
        """Stop, because nobody waits any more."""


class Calls:
    """What the parts of a pool have in common.

    Attributes:
        options: Where the server is, and how to log in.
    """

    options: Options
    _connections: Connections
    _cleaning: set[asyncio.Task[None]]

    async def _twice(self, make: Callable[[], Awaited[T]]) -> T:
        """Run a job that may be done again: a second time if its connection is lost."""
        try:
            return await self._run(make())
        except SFTPConnectionLost:
            await pause()
            return await self._run(make())

    async def _run(self, job: Awaited[T]) -> T:
        self._connections.submit(job)
        try:
            return await job.future
        except (asyncio.CancelledError, GeneratorExit):
            self._connections.withdraw(job)
            job.abandon()
            raise

    def _command(self, ask: Callable[[Session, Command], None], action: str, path: str) -> Command:
        return Command(ask, action, path, self._connections.release)  # type: ignore[arg-type]

    def _forget_remote(self, path: bytes) -> None:
        """Remove a temporary file whose connection was lost, on another one. Nobody waits; a failure is logged."""
        task = asyncio.get_running_loop().create_task(self._remove_left(path))
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)

    async def _remove_left(self, path: bytes) -> None:
        def ask(session: Session, request: Command) -> None:
            session.protocol.remove(path, request.answered, request)

        shown = path.decode("utf-8", "replace")
        for tries_left in reversed(range(_CLEANING_TRIES)):
            await pause()  # the other connections may be on their way out as well
            try:
                await self._run(self._command(ask, "remove", shown))
            except SFTPFileNotFound:
                pass
            except SFTPError as error:
                if isinstance(error, SFTPConnectionLost | SFTPConnectError) and tries_left:
                    continue
                logger.warning("a temporary file may be left on the server: %s", error)
            return

    def _restore_remote(self, aside: bytes, goal: bytes) -> None:
        """Bring back what was moved aside when the connection was lost. Nobody waits; a failure is logged."""
        task = asyncio.get_running_loop().create_task(self._put_back(aside, goal))
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)

    async def _put_back(self, aside: bytes, goal: bytes) -> None:
        for tries_left in reversed(range(_CLEANING_TRIES)):
            await pause()
            job = ProcedureJob(lambda protocol: put_back(protocol, aside, goal), self._connections.release)
            try:
                outcome = await self._run(job)
                if outcome.status.code != packets.OK:
                    raise outcome.error("put back", self.options.address, remote_text(goal))
            except SFTPError as error:
                if isinstance(error, SFTPConnectionLost | SFTPConnectError) and tries_left:
                    continue
                kept = remote_text(aside)
                logger.warning("a file on the server may have been left under another name, %s: %s", kept, error)
            return

    async def _stop_cleaning(self) -> None:
        cleaning = list(self._cleaning)
        for task in cleaning:
            task.cancel()
        await asyncio.gather(*cleaning, return_exceptions=True)


async def pause() -> None:
    """Wait before a second try, not all at the same moment."""
    await asyncio.sleep(_PAUSE_S * random.uniform(1, 2))
