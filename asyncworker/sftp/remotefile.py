"""A file on the server that is open on one session: written and read anywhere, each answer awaited."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from asyncworker.errors import SFTPConnectionLost
from asyncworker.sftp import packets
from asyncworker.sftp.packets import Attributes, OpenFlag, Status
from asyncworker.sftp.session import Released, Session, refusal

__all__ = ["RemoteFile"]


class RemoteFile:
    """A job of the pool, whose ``future`` gets the file once it is open. It keeps its place until it is closed.

    Args:
        path: Its path, for messages.
        raw: The path that is opened, as bytes.
        how: What follows the path in an OPEN, as :func:`~asyncworker.sftp.packets.open_tail` makes it.
        on_released: Called once, when the place on the session is free again.
    """

    def __init__(self, path: str, raw: bytes, how: bytes, on_released: Released) -> None:
        self.future: asyncio.Future[RemoteFile] = asyncio.get_running_loop().create_future()
        self._path = path
        self._raw = raw
        self._how = how
        self._on_released = on_released
        self._session: Session | None = None
        self._handle: bytes | None = None
        self._closing: _Answer | None = None
        self._unsent: deque[tuple[int, memoryview, _Write]] = deque()
        self._unanswered = 0  # bytes of WRITEs

    # -- a job of the pool ---------------------------------------------------------------------------------------------

    def start(self, session: Session) -> None:
        """Take a place on that session and open the file."""
        self._session = session
        session.protocol.open(self._raw, self._opened, self, self._how)

    def abandon(self) -> None:
        """Nobody waits for it to be open any more."""
        self.future.cancel()
        self.begin_to_close()

    def fail(self, error: Exception) -> None:
        """Take that it was not opened."""
        if not self.future.done():
            self.future.set_exception(error)
        self._release()

    def _opened(self, answer: bytes | Status) -> None:
        if isinstance(answer, Status):
            assert self._session is not None
            creates = bool(int.from_bytes(self._how[:4]) & OpenFlag.CREATE)
            self.fail(refusal(answer, "open", self._session.address, self._path, creates=creates))
            return
        self._handle = answer
        if self.future.done():
            self.begin_to_close()
        else:
            self.future.set_result(self)

    # -- what is asked of it -------------------------------------------------------------------------------------------

    def write(self, offset: int, data: bytes) -> asyncio.Future[None]:
        """Write bytes at that place, cut as the server wants them; the future is done when it has taken them all.

        The future gets SFTPError if the server refuses, SFTPConnectionLost if nobody can say whether it has.
        """
        self._live()
        write = _Write(len(data))
        self._unsent.append((offset, memoryview(data), write))
        self.go_on()
        return write.future

    async def read(self, offset: int, length: int) -> bytes:
        """Return the bytes that are there: fewer than ``length`` only at the end.

        Raises:
            SFTPError: The server refuses, or the connection is lost.
        """
        parts = []
        while length:
            size = min(length, self._live()[0].protocol.read_bytes)
            answer = await self._ask(self._live()[0].protocol.read, offset, size)
            if isinstance(answer, Status):
                if answer.code == packets.EOF:
                    break
                raise refusal(answer, "read", self._live()[0].address, self._path)
            parts.append(answer)
            offset += len(answer)
            length -= len(answer)
        return b"".join(parts)

    async def stat(self) -> Attributes:
        """Return what the server says of the open file: nothing, where it refuses.

        Raises:
            SFTPConnectionLost: The connection is lost.
        """
        answer = await self._ask(self._live()[0].protocol.fstat)
        if isinstance(answer, Status):
            return Attributes()
        assert isinstance(answer, Attributes)
        return answer

    async def set_attributes(self, attributes: bytes) -> bool:
        """Set what :func:`~asyncworker.sftp.packets.attributes_bytes` has made; returns whether the server let us.

        Raises:
            SFTPConnectionLost: The connection is lost.
        """
        answer = await self._ask(self._live()[0].protocol.set_attributes, attributes)
        return bool(answer.code == packets.OK)

    async def flush(self) -> None:
        """Have the server flush the file to its disk, where it offers that.

        Raises:
            SFTPError: It cannot, or the connection is lost.
        """
        session, _ = self._live()
        if session.protocol.flushes:
            answer = await self._ask(session.protocol.fsync)
            if answer.code != packets.OK:
                raise refusal(answer, "flush", session.address, self._path)

    async def close(self) -> None:
        """Close it; a second call does nothing.

        Raises:
            SFTPError: What was written is not safe with the server.
        """
        address = self._session.address if self._session is not None else ""
        self.begin_to_close()
        if self._closing is not None:
            answer = await asyncio.shield(self._closing.future)
            if answer.code != packets.OK:
                raise refusal(answer, "close", address, self._path)

    def begin_to_close(self) -> None:
        """Close it as soon as it can be, without waiting. What was written and not answered is given up."""
        session, handle = self._session, self._handle
        if self._closing is not None or session is None or handle is None:
            return
        self._unsent.clear()
        if not session.alive:
            self._release()
            return
        self._closing = _Answer(self._release)
        session.protocol.close(handle, self._closing.take, self._closing)

    # -- inside --------------------------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Send what waits, as far as the session has room for it."""
        session, handle = self._session, self._handle
        if session is None or handle is None or self._closing is not None:
            return
        while self._unsent and session.may_write(self):
            offset, data, write = self._unsent.popleft()
            piece, rest = data[: session.protocol.write_bytes], data[session.protocol.write_bytes :]
            try:
                session.protocol.write(handle, offset, piece, partial(self._written, write, len(piece)), write)
            except SFTPConnectionLost as error:
                write.fail(error)
                continue
            self._unanswered += len(piece)
            session.writes(len(piece))
            if rest:
                self._unsent.appendleft((offset + len(piece), rest, write))

    def _written(self, write: _Write, size: int, answer: Status) -> None:
        if self._session is not None:
            self._unanswered -= size
            self._session.wrote(size)
            if answer.code != packets.OK:
                write.fail(refusal(answer, "write", self._session.address, self._path))
        write.missing -= size
        if not write.missing and not write.future.done():
            write.future.set_result(None)

    async def _ask(self, send: Callable[..., None], *arguments: Any) -> Any:
        answer = _Answer()
        send(self._live()[1], *arguments, answer.take, answer)
        return await answer.future

    def _live(self) -> tuple[Session, bytes]:
        if self._session is None or self._handle is None or self._closing is not None:
            raise ValueError(f"{self._path}: the file is closed")
        return self._session, self._handle

    def _release(self) -> None:
        session, self._session = self._session, None
        self._handle = None
        if session is not None:
            left, self._unanswered = self._unanswered, 0
            session.wrote(left)
            self._on_released(session, self)


class _Answer:
    """Gives a request's answer, or the news that there will be none, to a future.

    Args:
        then: Called in either case.
    """

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._then = then

    def take(self, answer: Any) -> None:
        """Take the answer."""
        if not self.future.done():
            self.future.set_result(answer)
        self._then()

    def fail(self, error: Exception) -> None:
        """Take that there will be no answer."""
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # read: whoever asked may be gone
        self._then()


class _Write(_Answer):
    """Bytes that go out in several WRITEs."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.missing = size
