"""How a call of the pool becomes a job on a session: waited for, tried twice where that is safe, cancelled cleanly."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from asyncworker.errors import SFTPConnectError, SFTPConnectionLost, SFTPError, SFTPFileNotFound
from asyncworker.sftp import packets
from asyncworker.sftp.connections import CLEAN_UP_S, Connections
from asyncworker.sftp.names import remote_text
from asyncworker.sftp.open_files import OPEN_FILES, out_of_descriptors
from asyncworker.sftp.options import Options
from asyncworker.sftp.packets import Attributes
from asyncworker.sftp.placing import ProcedureJob, put_back
from asyncworker.sftp.request import Command, Request
from asyncworker.sftp.session import Session
from asyncworker.sftp.unfinished import Unfinished

__all__ = ["Awaited", "Calls", "PathLike", "leftover_of", "pause"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
PathLike = str | os.PathLike[str]

#: Before a second try. Connections seldom die alone: those that die with this one have to be seen dead first.
_PAUSE_S = 0.1
#: Tries of a file for which the process had no descriptor left.
_DESCRIPTOR_TRIES = 5
#: Turns of the loop within which the end of a connection, which has arrived, becomes known.
_TURNS = 5
#: A connection that nobody has used for so long is asked something harmless before what must not be asked twice.
_PROBED_AFTER_S = 1.0
#: Of removing what a lost connection left on the server.
_CLEANING_TRIES = 5
#: How long a call that is cancelled waits for its file to be removed; after that, it is removed all the same.
_GOODBYE_S = 2.0
#: Paths in a line of the log.
_SHOWN = 5


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
    """Shared base of a pool's operations.

    Attributes:
        options: Where the server is, and how to log in.
    """

    options: Options
    _connections: Connections
    _cleaning: set[asyncio.Task[None]]
    _left: dict[bytes, None]  # temporary files on the server that nobody but a task in `_cleaning` cares for
    _unfinished: Unfinished

    async def _twice(self, make: Callable[[], Awaited[T]]) -> T:
        """Run a job that may be done again: a second time if its connection is lost.

        Losses that made the pool reduce its load do not count: they come to an end by themselves.
        """
        losses = without_descriptor = 0
        while True:
            try:
                return await self._submit(make())
            except SFTPConnectionLost as error:
                losses += not error.eased
                if losses == 2:
                    raise
            except OSError as error:
                without_descriptor += 1
                if not out_of_descriptors(error) or without_descriptor == _DESCRIPTOR_TRIES:
                    raise
                OPEN_FILES.shrink()
            await pause()

    async def _run(self, job: Awaited[T], *, cleans_up: bool = False) -> T:
        """Run a job once."""
        idle_s = self._connections.idle_s
        if idle_s is not None and not cleans_up:  # the server may have hung up meanwhile: find that out before
            await self._see_lost(idle_s)
        return await self._submit(job, cleans_up=cleans_up)

    async def _see_lost(self, idle_s: float) -> None:
        if idle_s < _PROBED_AFTER_S:
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            return

        def ask(session: Session, request: Request[Attributes]) -> None:
            session.protocol.stat(b".", request.answered, request)

        try:
            await self._twice(lambda: Request(ask, "stat", ".", self._connections.release))
        except (SFTPConnectionLost, SFTPConnectError):
            raise
        except SFTPError:
            pass  # a refusal is an answer

    async def _submit(self, job: Awaited[T], *, cleans_up: bool = False) -> T:
        self._connections.submit(job, cleans_up=cleans_up)
        try:
            return await job.future
        except GeneratorExit:
            self._abandon(job)
            raise
        except asyncio.CancelledError:
            self._abandon(job)
            if leftover_of(job) is not None:  # it is gone when the call is over, if that does not take long
                await self._connections.released((job,), _GOODBYE_S)
            raise

    def _abandon(self, job: Awaited[Any]) -> None:
        self._connections.withdraw(job)
        job.abandon()

    def _command(self, ask: Callable[[Session, Command], None], action: str, path: str) -> Command:
        return Command(ask, action, path, self._connections.release)  # type: ignore[arg-type]

    async def _remove_temporary(self, path: bytes) -> None:
        """Remove a temporary file, even while the pool is being closed; if that takes long, nobody waits for it.

        A refusal is logged: it comes after an error that says more.
        """

        def ask(session: Session, request: Command) -> None:
            session.protocol.remove(path, request.answered, request)

        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._run(self._command(ask, "remove", remote_text(path)), cleans_up=True)
        except SFTPFileNotFound:
            pass
        except (SFTPConnectionLost, SFTPConnectError, TimeoutError):
            self._forget_remote(path)
        except SFTPError as error:
            logger.warning("a temporary file is left on the server: %s", error)

    def _forget_remote(self, path: bytes) -> None:
        """Remove a temporary file whose connection was lost, on another one. Nobody waits; a failure is logged."""
        if self._connections.closed:
            return  # it is among those that the log has named
        self._left[path] = None
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
                await self._run(self._command(ask, "remove", shown), cleans_up=True)
            except SFTPFileNotFound:
                pass
            except SFTPError as error:
                if isinstance(error, SFTPConnectionLost | SFTPConnectError) and tries_left:
                    continue
                logger.warning("a temporary file may be left on the server: %s", error)
            self._left.pop(path, None)
            return

    def _restore_remote(self, aside: bytes, goal: bytes) -> None:
        """Bring back what was moved aside when the connection was lost. Nobody waits; a failure is logged."""
        if self._connections.closed:
            kept = remote_text(aside)
            logger.warning(
                "%s: closed while %s was replaced; it may be %s", self.options.address, remote_text(goal), kept
            )
            return
        self._left[aside] = None
        task = asyncio.get_running_loop().create_task(self._put_back(aside, goal))
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)

    async def _put_back(self, aside: bytes, goal: bytes) -> None:
        for tries_left in reversed(range(_CLEANING_TRIES)):
            await pause()
            job = ProcedureJob(lambda protocol: put_back(protocol, aside, goal), self._connections.release)
            try:
                outcome = await self._run(job, cleans_up=True)
                if outcome.status.code != packets.OK:
                    raise outcome.error("put back", self.options.address, remote_text(goal))
            except SFTPError as error:
                if isinstance(error, SFTPConnectionLost | SFTPConnectError) and tries_left:
                    continue
                kept = remote_text(aside)
                logger.warning("a file on the server may have been left under another name, %s: %s", kept, error)
            self._left.pop(aside, None)
            return

    async def _finish_cleaning(self) -> None:
        """Start nothing new, and wait a while for what was stopped to leave nothing behind; log what stays."""
        self._connections.stop()
        try:
            async with asyncio.timeout(CLEAN_UP_S):
                while self._cleaning or self._unfinished or self._connections.in_flight:
                    await self._connections.released(self._connections.running, CLEAN_UP_S)
                    await self._unfinished.over()
                    if self._cleaning:
                        await asyncio.wait(self._cleaning)
        except TimeoutError:
            pass
        finally:
            stay = self.leftovers
            if stay:
                shown = ", ".join(stay[:_SHOWN]) + (", ..." if len(stay) > _SHOWN else "")
                logger.warning(
                    "%s: closed with %d temporary files that may be left: %s", self.options.address, len(stay), shown
                )
            cleaning = list(self._cleaning)
            for task in cleaning:
                task.cancel()
            await asyncio.gather(*cleaning, return_exceptions=True)

    @property
    def leftovers(self) -> list[str]:
        """Paths of files that are not whole and would stay if this process ended now, on the server and here."""
        running = (leftover_of(job) for job in self._connections.running)
        return [*filter(None, running), *map(remote_text, self._left), *self._unfinished.paths]


def leftover_of(job: object) -> str | None:
    """Return the path of the file that a job has made and that is not whole, if it has made one."""
    leftover: str | None = getattr(job, "leftover", None)
    return leftover


async def pause() -> None:
    """Wait before a second try, not all at the same moment."""
    await asyncio.sleep(_PAUSE_S * random.uniform(1, 2))
